// Entry point of an I/O worker thread: an epoll loop that drives the devices given to it until the VM stops.

import { parentPort, receiveMessageOnPort } from 'node:worker_threads';
import { EPOLLIN } from '../platform/epoll.js';
import { EventLoop } from '../platform/event-loop.js';
import { GuestMemory } from '../platform/guest-memory.js';
import { VsockDevice } from '../vsock/device.js';
import type { HostMessage } from '../vsock/in-process/messages.js';
import { StreamHub } from '../vsock/in-process/stream-hub.js';
import { ControlBlock } from './control.js';
import { MmioBackend } from './mmio-backend.js';
import type { IoMessage, IoStart, LogLevel, VsockHandles } from './worker-protocol.js';

function runToTheEnd(start: IoStart, send: (message: IoMessage) => void): void {
  const control = new ControlBlock(start.control);
  const { guestCid, listener, seqpacketListener, socketPath, counters } = start.vsock;
  const { maxConnections, bufAlloc, logConnections, connectTimeoutMs, busyPollMicroseconds = 0 } = start.vsock;
  const loop = new EventLoop({ busyPollMicroseconds });
  const memory = new GuestMemory(start.memory);
  const log = (level: LogLevel, message: string): void => {
    send({ type: 'log', level, component: 'vsock', message });
  };
  const inProcess = openStreamHub(start.vsock, loop);
  const sockets = { listener, seqpacketListener, socketPath };
  const limits = { maxConnections, bufAlloc, connectTimeoutMs };
  const writeConfig = (config: Uint8Array): void => {
    backend.writeConfig(config);
  };
  const device = new VsockDevice({
    guestCid,
    ...sockets,
    ...limits,
    inProcess,
    counters,
    logConnections,
    writeConfig,
    loop,
    log,
  });
  const backend: MmioBackend = new MmioBackend({ name: 'vsock', loop, memory, handles: start.vsock, device, log });
  try {
    loop.watch(start.stopEvent, EPOLLIN, { ready: () => undefined });
    send({ type: 'running' });
    while (!control.stopRequested) loop.turn();
  } finally {
    backend.close();
    inProcess.close();
    loop.close();
  }
}

function openStreamHub({ inProcess, peers }: VsockHandles, loop: EventLoop): StreamHub {
  const { port } = inProcess;
  return new StreamHub({
    loop,
    shared: inProcess,
    peers,
    receive: () => (receiveMessageOnPort(port) as { message: HostMessage } | undefined)?.message,
    send: (message) => {
      port.postMessage(message);
    },
  });
}

const port = parentPort;
if (port === null) throw new Error('io-worker.js is a worker thread entry, not a program');
port.once('message', (start: IoStart | undefined) => {
  if (start === undefined) return;
  const send = (message: IoMessage): void => {
    port.postMessage(message);
  };
  try {
    runToTheEnd(start, send);
    send({ type: 'stopped' });
  } catch (error) {
    const { message, stack } = error instanceof Error ? error : new Error(String(error));
    send({ type: 'failed', message, stack });
  }
});
