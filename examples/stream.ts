// Streams 1 GiB through `vm.vsock.connect` and shows that memory stays flat.
//
//   npm run build
//   node dist/examples/stream.js                1 GiB each: guest to host, host to guest, and through echo
//   node dist/examples/stream.js 4              4 GiB each
//
// The guest is the one built into tsvmm; there is no socket, no file and no network. In a program of your own the first
// import is 'tsvmm'.

import { Vm, validateVmConfig, type VsockStream } from '../src/index.js';

const MIB = 2 ** 20;
const ECHO = 7;
const DISCARD = 9;
const CHARGEN = 19;

const gibibytes = Number(process.argv[2] ?? 1);
if (!(gibibytes > 0)) {
  console.error('usage: node dist/examples/stream.js [GIBIBYTES]');
  process.exit(2);
}
const total = Math.round(gibibytes * 1024) * MIB;

/** Writes `total` bytes, waiting whenever the stream says that it holds enough. */
async function send(stream: VsockStream): Promise<void> {
  const block = Buffer.alloc(64 * 1024, 'tsvmm ');
  for (let sent = 0; sent < total; sent += block.length) {
    if (!stream.write(block)) await new Promise((resolve) => stream.once('drain', resolve));
  }
  stream.end();
}

/** Reads until `total` bytes have come, or the guest ends. */
async function receive(stream: VsockStream): Promise<number> {
  let received = 0;
  for await (const piece of stream) {
    received += (piece as Buffer).length;
    if (received >= total) break; // Leaving the loop destroys the stream.
  }
  return received;
}

/** Runs `transfer`, and prints how fast it was and how much memory the process used at most. */
async function measure(what: string, transfer: () => Promise<unknown>): Promise<void> {
  let peak = process.memoryUsage.rss();
  const before = peak;
  const watch = setInterval(() => {
    peak = Math.max(peak, process.memoryUsage.rss());
  }, 20);
  const start = performance.now();
  await transfer();
  const seconds = (performance.now() - start) / 1000;
  clearInterval(watch);
  const rate = (total / MIB / seconds).toFixed(0);
  const mebibytes = (bytes: number): string => `${(bytes / MIB).toFixed(0)} MiB`;
  console.log(
    `${what.padEnd(15)} ${mebibytes(total)} in ${seconds.toFixed(2)} s: ${rate} MiB/s; ` +
      `memory ${mebibytes(before)} before, ${mebibytes(peak)} at most, ${mebibytes(process.memoryUsage.rss())} after`,
  );
}

const config = validateVmConfig({ memory: { size: 128 * MIB }, serial: { mode: 'Null' }, vsock: { cid: 3 } });
const vm = await Vm.create(config);
try {
  await vm.start();
  const chargen = await vm.vsock.connect(CHARGEN, { waitForDriver: true });
  await measure('guest to host', () => receive(chargen));
  const discard = await vm.vsock.connect(DISCARD);
  await measure('host to guest', async () => {
    await send(discard);
    // The guest closes when it has taken everything.
    await receive(discard);
  });
  const echo = await vm.vsock.connect(ECHO);
  await measure('through echo', () => Promise.all([send(echo), receive(echo)]));
} finally {
  await vm.stop();
}
