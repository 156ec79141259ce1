// Entry point of an I/O worker thread: an epoll loop that drives the devices given to it until the VM stops;
// then another VM may take it.

import { receiveMessageOnPort } from 'node:worker_threads';
import type { VirtioDevice } from '../devices/virtio/device.js';
import { Epoll, EPOLLIN } from '../platform/epoll.js';
import { EventLoop } from '../platform/event-loop.js';
import { drainEventFd } from '../platform/eventfd.js';
import { GuestMemory } from '../platform/guest-memory.js';
import { ControlBlock } from './control.js';
import { loadDeviceKind, type DeviceFactory, type DeviceKind } from './device-kinds.js';
import { MmioBackend } from './mmio-backend.js';
import type { IoCommand, IoMessage, IoStart, LogLevel } from './worker-protocol.js';
import { runService } from './worker-service.js';

type Send = (message: IoMessage) => void;

async function runToTheEnd(start: IoStart, send: Send): Promise<void> {
  const kinds = new Map<DeviceKind, DeviceFactory>();
  for (const { settings } of start.devices) kinds.set(settings.kind, await loadDeviceKind(settings.kind));
  const control = new ControlBlock(start.control);
  const loop = new EventLoop({ busyPollMicroseconds: start.busyPollMicroseconds });
  const memory = new GuestMemory(start.memory);
  const backends: MmioBackend[] = [];
  /** Those that no backend owns yet. */
  const devices: VirtioDevice[] = [];
  try {
    for (const { id, handles, settings, counters, restored } of start.devices) {
      const log = (level: LogLevel, message: string): void => {
        send({ type: 'log', level, component: id, message });
      };
      const make = kinds.get(settings.kind);
      if (make === undefined) throw new Error(`no code for a device of kind ${settings.kind}`);
      const backend = new MmioBackend({ loop, memory, handles, log, restored });
      const device = make(settings, {
        loop,
        log,
        counters: new Float64Array(counters),
        updateConfig: (offset, bytes) => {
          backend.updateConfig(offset, bytes);
        },
      });
      devices.push(device);
      backends.push(backend);
    }
    const commands = new CommandReader(start, loop, backends, send);
    loop.watch(start.stopEvent, EPOLLIN, { ready: () => undefined });
    const stopped = (): boolean => control.stopRequested;
    if (commands.paused) commands.sleepUntilResumed(stopped);
    for (const backend of backends) {
      const device = devices.shift();
      if (device !== undefined) backend.serve(device);
    }
    send({ type: 'running' });
    while (!control.stopRequested) {
      loop.turn();
      if (commands.paused) commands.sleepUntilResumed(stopped);
    }
  } finally {
    for (const device of devices) device.close();
    for (const backend of backends) backend.close();
    loop.close();
    start.commands.close();
  }
}

/** What the main thread asks of this worker while it runs. */
class CommandReader {
  paused: boolean;
  private asleep = false;
  /** Whether the main thread waits to hear that this thread sleeps. */
  private asked = false;
  private readonly start: IoStart;
  private readonly backends: readonly MmioBackend[];
  private readonly send: Send;

  constructor(start: IoStart, loop: EventLoop, backends: readonly MmioBackend[], send: Send) {
    this.start = start;
    this.backends = backends;
    this.send = send;
    this.paused = start.paused;
    loop.watch(start.commandEvent, EPOLLIN, {
      ready: () => {
        this.read();
      },
    });
  }

  /**
   * Waits for commands alone: what else happens to descriptors meanwhile is found by the loop when it turns again. Called
   * outside the loop, so that no handler is under way.
   */
  sleepUntilResumed(stopped: () => boolean): void {
    for (const backend of this.backends) backend.quiesce();
    this.asleep = true;
    if (this.asked) this.send({ type: 'paused' });
    this.asked = false;
    const { commandEvent, stopEvent } = this.start;
    const epoll = new Epoll();
    try {
      epoll.add(commandEvent, EPOLLIN, commandEvent);
      epoll.add(stopEvent, EPOLLIN, stopEvent);
      while (this.paused && !stopped()) {
        epoll.wait(-1);
        this.read();
      }
    } finally {
      epoll.close();
    }
    this.asleep = false;
    // What a device put back it is not notified of again.
    for (const backend of this.backends) backend.lookAtQueues();
  }

  private read(): void {
    drainEventFd(this.start.commandEvent);
    for (;;) {
      const received = receiveMessageOnPort(this.start.commands) as { message: IoCommand } | undefined;
      if (received === undefined) return;
      this.obey(received.message);
    }
  }

  private save(): IoMessage {
    try {
      return { type: 'state', devices: this.backends.map((backend) => backend.save()) };
    } catch (error) {
      return { type: 'not-saved', reason: error instanceof Error ? error.message : String(error) };
    }
  }

  private obey(command: IoCommand): void {
    switch (command.type) {
      case 'device':
        this.backends[command.device].command(command.command);
        return;
      case 'pause':
        // Resumed and paused again at once, the loop has not turned in between: nothing was taken up.
        if (this.asleep) this.send({ type: 'paused' });
        else this.asked = true;
        this.paused = true;
        return;
      case 'save':
        this.send(this.save());
        return;
      case 'resume':
        this.paused = false;
        return;
    }
  }
}

runService<IoStart>('io-worker.js', {
  preload: (kinds) => Promise.allSettled(kinds.map((kind) => loadDeviceKind(kind as DeviceKind))),
  serve: (start, port) =>
    runToTheEnd(start, (message) => {
      port.postMessage(message);
    }).finally(() => {
      new ControlBlock(start.control).threadEnded();
    }),
});
