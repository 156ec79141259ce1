// Entry point of an I/O worker thread: an epoll loop that drives the devices given to it until the VM stops.

import { parentPort, receiveMessageOnPort, workerData } from 'node:worker_threads';
import { EPOLLIN } from '../platform/epoll.js';
import { EventLoop } from '../platform/event-loop.js';
import { drainEventFd } from '../platform/eventfd.js';
import { GuestMemory } from '../platform/guest-memory.js';
import { ControlBlock } from './control.js';
import { loadDeviceKind, type DeviceFactory, type DeviceKind } from './device-kinds.js';
import { MmioBackend } from './mmio-backend.js';
import type { IoCommand, IoMessage, IoStart, LogLevel } from './worker-protocol.js';

type Send = (message: IoMessage) => void;

async function runToTheEnd(start: IoStart, send: Send): Promise<void> {
  const kinds = new Map<DeviceKind, DeviceFactory>();
  for (const { settings } of start.devices) kinds.set(settings.kind, await loadDeviceKind(settings.kind));
  const control = new ControlBlock(start.control);
  const loop = new EventLoop({ busyPollMicroseconds: start.busyPollMicroseconds });
  const memory = new GuestMemory(start.memory);
  const backends: MmioBackend[] = [];
  try {
    for (const { id, handles, settings, counters } of start.devices) {
      const log = (level: LogLevel, message: string): void => {
        send({ type: 'log', level, component: id, message });
      };
      const make = kinds.get(settings.kind);
      if (make === undefined) throw new Error(`no code for a device of kind ${settings.kind}`);
      const backend = new MmioBackend({ loop, memory, handles, log });
      const device = make(settings, {
        loop,
        log,
        counters: new Float64Array(counters),
        updateConfig: (offset, bytes) => {
          backend.updateConfig(offset, bytes);
        },
      });
      backend.serve(device);
      backends.push(backend);
    }
    watchCommands(start, loop, backends);
    loop.watch(start.stopEvent, EPOLLIN, { ready: () => undefined });
    send({ type: 'running' });
    while (!control.stopRequested) loop.turn();
  } finally {
    for (const backend of backends) backend.close();
    loop.close();
  }
}

function watchCommands(start: IoStart, loop: EventLoop, backends: readonly MmioBackend[]): void {
  const { commandEvent, commands } = start;
  loop.watch(commandEvent, EPOLLIN, {
    ready: () => {
      drainEventFd(commandEvent);
      for (;;) {
        const received = receiveMessageOnPort(commands) as { message: IoCommand } | undefined;
        if (received === undefined) return;
        backends[received.message.device].command(received.message.command);
      }
    },
  });
}

const port = parentPort;
if (port === null) throw new Error('io-worker.js is a worker thread entry, not a program');
const send: Send = (message) => {
  port.postMessage(message);
};
// Started ahead of its VM: the code it will need loads meanwhile.
for (const kind of (workerData as { preload?: readonly DeviceKind[] } | undefined)?.preload ?? []) {
  void loadDeviceKind(kind);
}
port.once('message', (start: IoStart | undefined) => {
  if (start === undefined) return;
  runToTheEnd(start, send).then(
    () => {
      send({ type: 'stopped' });
    },
    (error: unknown) => {
      const { message, stack } = error instanceof Error ? error : new Error(String(error));
      send({ type: 'failed', message, stack });
    },
  );
});
