// A program of the vsock benchmark, in a process of its own: streams between a VM and the Node process that runs it, in
// turn through `vm.vsock.connect` and through the Unix socket with node:net, by the same code.
//
//   node vsock-stream.js SOCKET SECONDS ROUNDS
//
// Prints bytes per second, medians: in-process write, socket write, in-process read, socket read; then the median round trip
// of one byte in microseconds, in-process and socket.

import { once } from 'node:events';
import { createConnection } from 'node:net';
import type { Duplex } from 'node:stream';
import { DEFAULT_VM_CONFIG } from '../src/config/vm-config.js';
import { Vm } from '../src/vmm/vm.js';
import { median, sleep } from './harness.js';

const ECHO = 7;
const DISCARD = 9;
const CHARGEN = 19;
const CONTEXT_ID = 3;
const CHUNK_BYTES = 256 << 10;
const READY_TIMEOUT_MS = 10_000;

type Connect = (port: number) => Promise<Duplex>;

async function connectUnix(path: string, port: number): Promise<Duplex> {
  const socket = createConnection(path);
  socket.write(`CONNECT ${port}\n`);
  let line = '';
  // Byte by byte: what follows the line is the guest's.
  while (!line.endsWith('\n')) {
    const byte = socket.read(1) as Buffer | null;
    if (byte !== null) line += byte.toString('latin1');
    else await once(socket, 'readable');
  }
  if (!line.startsWith('OK ')) throw new Error(`the monitor answered ${line}`);
  return socket;
}

async function writeRate(stream: Duplex, seconds: number): Promise<number> {
  const chunk = Buffer.alloc(CHUNK_BYTES, 'x');
  const begin = performance.now();
  let bytes = 0;
  while (performance.now() < begin + seconds * 1000) {
    bytes += chunk.length;
    if (!stream.write(chunk)) await once(stream, 'drain');
  }
  return (bytes / (performance.now() - begin)) * 1000;
}

async function readRate(stream: Duplex, seconds: number): Promise<number> {
  const begin = performance.now();
  let bytes = 0;
  stream.on('data', (chunk: Buffer) => (bytes += chunk.length));
  await sleep(seconds * 1000);
  return (bytes / (performance.now() - begin)) * 1000;
}

async function roundTrip(stream: Duplex, seconds: number): Promise<number> {
  const times: number[] = [];
  let answered: (() => void) | undefined;
  stream.on('data', () => answered?.());
  const end = performance.now() + seconds * 1000;
  for (let before = performance.now(); before < end; before = performance.now()) {
    const answer = new Promise<void>((resolve) => {
      answered = resolve;
    });
    stream.write('x');
    await answer;
    times.push((performance.now() - before) * 1000);
  }
  return median(times);
}

async function measure(
  connect: Connect,
  port: number,
  how: (stream: Duplex, seconds: number) => Promise<number>,
  seconds: number,
): Promise<number> {
  const stream = await connect(port);
  try {
    return await how(stream, seconds);
  } finally {
    stream.on('error', () => undefined);
    stream.destroy();
  }
}

async function whenReady(vm: Vm): Promise<void> {
  const deadline = performance.now() + READY_TIMEOUT_MS;
  for (;;) {
    try {
      (await vm.vsock.connect(DISCARD)).destroy();
      return;
    } catch (error) {
      if (performance.now() > deadline) throw error;
      await sleep(20);
    }
  }
}

async function main([socket, secondsText, roundsText]: string[]): Promise<void> {
  const seconds = Number(secondsText);
  const vm = await Vm.create({
    ...DEFAULT_VM_CONFIG,
    serial: { mode: 'Null' },
    vsock: { cid: CONTEXT_ID, socket },
  });
  try {
    await vm.start();
    await whenReady(vm);
    const ways: readonly Connect[] = [(port) => vm.vsock.connect(port), (port) => connectUnix(socket, port)];
    const kinds = [
      { port: DISCARD, how: writeRate },
      { port: CHARGEN, how: readRate },
      { port: ECHO, how: roundTrip },
    ];
    const results = kinds.map(() => ways.map((): number[] => []));
    for (let round = 0; round < Number(roundsText); round++) {
      for (const [kind, { port, how }] of kinds.entries()) {
        for (const [way, connect] of ways.entries()) {
          results[kind][way].push(await measure(connect, port, how, seconds));
        }
      }
    }
    console.log(results.flatMap((each) => each.map(median)).join(' '));
  } finally {
    await vm.stop();
  }
}

await main(process.argv.slice(2));
