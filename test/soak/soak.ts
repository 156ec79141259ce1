// Mixed load on one real VM for a while, with checksums on everything and an eye on memory and descriptors.
//
//   node dist/test/soak/soak.js [--seconds 600]
//
// Not part of `npm test`. Prints a line every ten seconds and a summary; the exit code is 1 when a byte was wrong or
// missing, a client was refused, or memory or descriptors grew.
//
// The load, all at once, on the built-in guest:
//   echo      connections that live for a random number of bytes, half-close, and compare digests of both directions
//   chargen   readers that check every byte of RFC 864's pattern, some slowly, and leave in the middle
//   discard   writers that end in order
//   churn     clients that ask, say one word or none, and leave at any moment

import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import type { Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { KIB, MIB } from '../../src/platform/units.js';
import { openDescriptors } from '../support/process-state.js';
import { connectVsock } from '../support/vsock-client.js';
import { testConfig, withVm } from '../support/vms.js';

const ECHO = 7;
const DISCARD = 9;
const CHARGEN = 19;

const ECHO_CLIENTS = 24;
const CHARGEN_CLIENTS = 4;
const DISCARD_CLIENTS = 4;
const CHURN_CLIENTS = 8;

const SAMPLE_MS = 10_000;
/** The longest a client that began before the end may take from there. */
const STUCK_MS = 30_000;
/** Until then caches fill and code is compiled; growth counts from there. */
const WARM_UP_SHARE = 0.25;
const RSS_GROWTH_LIMIT = 48 * MIB;

// RFC 864 as the guest has it: lines of 72 of the 95 printable characters, each line beginning one further on.
const LINE = 72;
const PRINTABLE = 95;
const chargenPeriod = Buffer.concat(
  Array.from({ length: PRINTABLE }, (_, line) =>
    Buffer.from([...Array.from({ length: LINE }, (__, column) => 0x20 + ((line + column) % PRINTABLE)), 0x0d, 0x0a]),
  ),
);
const chargenPattern = Buffer.concat(Array.from({ length: 12 }, () => chargenPeriod));

const source = randomBytes(MIB);

class Soak {
  readonly done = { echo: 0, chargen: 0, discard: 0, churn: 0 };
  bytes = 0;
  readonly problems: string[] = [];
  private readonly path: string;
  private end: number;

  constructor(path: string, end: number) {
    this.path = path;
    this.end = end;
  }

  async run(): Promise<void> {
    const clients = [
      ...Array.from({ length: ECHO_CLIENTS }, () => this.repeat('echo', () => this.echo())),
      ...Array.from({ length: CHARGEN_CLIENTS }, () => this.repeat('chargen', () => this.chargen())),
      ...Array.from({ length: DISCARD_CLIENTS }, () => this.repeat('discard', () => this.discard())),
      ...Array.from({ length: CHURN_CLIENTS }, () => this.repeat('churn', () => this.churn())),
    ];
    await Promise.all(clients);
  }

  /** Ends the load now. */
  interrupt(): void {
    this.end = 0;
  }

  /** Settles, and says so, when clients are still at it at `deadline`: bytes that never come are the worst loss. */
  async stuck(deadline: number): Promise<void> {
    await new Promise((resolve) => setTimeout(resolve, deadline - performance.now()).unref());
    this.problems.push('clients wait for bytes that do not come');
  }

  private get over(): boolean {
    return performance.now() >= this.end || this.problems.length > 0;
  }

  private async repeat(kind: keyof Soak['done'], once: () => Promise<void>): Promise<void> {
    while (!this.over) {
      try {
        await once();
        this.done[kind]++;
      } catch (error) {
        this.problems.push(`${kind}: ${error instanceof Error ? error.message : String(error)}`);
      }
    }
  }

  private async echo(): Promise<void> {
    const socket = await connectVsock(this.path, ECHO);
    const total = size(4 * MIB);
    const there = createHash('sha1');
    const back = createHash('sha1');
    let received = 0;
    socket.on('data', (piece: Buffer) => {
      received += piece.length;
      back.update(piece);
    });
    socket.resume(); // It comes paused.
    const ended = once(socket, 'end');
    for (let sent = 0; sent < total;) {
      const start = Math.floor(Math.random() * source.length);
      const piece = source.subarray(start, start + Math.min(total - sent, size(64 * KIB)));
      there.update(piece);
      sent += piece.length;
      if (!socket.write(piece)) await once(socket, 'drain');
    }
    socket.end();
    await ended;
    this.bytes += 2 * total;
    if (received !== total) throw new Error(`${received} of ${total} bytes came back`);
    if (there.digest('hex') !== back.digest('hex')) throw new Error(`other bytes came back, of ${total}`);
    await closed(socket);
  }

  private async chargen(): Promise<void> {
    const socket = await connectVsock(this.path, CHARGEN);
    const wanted = size(16 * MIB);
    const slow = Math.random() < 0.25;
    let position = 0;
    for await (const piece of socket as AsyncIterable<Buffer>) {
      for (let done = 0; done < piece.length;) {
        const phase = (position + done) % chargenPeriod.length;
        const length = Math.min(piece.length - done, chargenPattern.length - phase);
        if (piece.compare(chargenPattern, phase, phase + length, done, done + length) !== 0) {
          throw new Error(`the pattern is broken near byte ${position + done}`);
        }
        done += length;
      }
      position += piece.length;
      this.bytes += piece.length;
      if (position >= wanted || this.over) break;
      // A reader that lets the socket fill up.
      if (slow) await new Promise((resolve) => setTimeout(resolve, 5));
    }
    await closed(socket);
  }

  private async discard(): Promise<void> {
    const socket = await connectVsock(this.path, DISCARD);
    const total = size(16 * MIB);
    socket.resume();
    const ended = once(socket, 'end');
    for (let sent = 0; sent < total;) {
      const piece = source.subarray(0, Math.min(total - sent, size(256 * KIB)));
      sent += piece.length;
      if (!socket.write(piece)) await once(socket, 'drain');
    }
    socket.end();
    await ended; // The guest ends when it has taken everything.
    this.bytes += total;
    await closed(socket);
  }

  private async churn(): Promise<void> {
    const socket = await connectVsock(this.path, [ECHO, DISCARD, CHARGEN][Math.floor(Math.random() * 3)]);
    socket.on('error', () => undefined); // ECONNRESET: it leaves with bytes unread, and writes after that.
    if (Math.random() < 0.5) socket.write('a word');
    if (Math.random() < 0.3) socket.end();
    if (Math.random() < 0.3) socket.resume();
    await closed(socket);
  }
}

/** Small sizes are as likely as large ones. */
function size(limit: number): number {
  return 1 + Math.floor(limit ** Math.random());
}

async function closed(socket: Socket): Promise<void> {
  if (socket.closed) return;
  const event = once(socket, 'close');
  socket.destroy();
  await event;
}

interface Sample {
  readonly seconds: number;
  readonly rss: number;
  readonly descriptors: number;
}

function sample(start: number): Sample {
  const rss = Number(/VmRSS:\s+(\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))?.[1]) * KIB;
  return { seconds: Math.round((performance.now() - start) / 1000), rss, descriptors: openDescriptors() };
}

async function main(): Promise<boolean> {
  const { values } = parseArgs({ options: { seconds: { type: 'string', default: '600' } } });
  const seconds = Number(values.seconds);
  if (!(seconds > 0)) throw new Error(`--seconds ${values.seconds}: expected a number above 0`);
  const directory = mkdtempSync(join(tmpdir(), 'tsvmm-soak-'));
  const path = join(directory, 'soak.vsock');
  const samples: Sample[] = [];
  try {
    return await withVm(testConfig({ vsock: { cid: 3, socket: path } }), async (vm, console) => {
      await console.waitFor(/> $/);
      await closed(await connectVsock(path, ECHO)); // Whatever is made once per process is made here.
      const idle = openDescriptors();
      const sockets = readdirSync(directory);
      const start = performance.now();
      const soak = new Soak(path, start + seconds * 1000);
      // A soak that is interrupted ends in order and says what it found so far.
      for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => soak.interrupt());
      const report = (): void => {
        const now = sample(start);
        samples.push(now);
        const { echo, chargen, discard, churn } = soak.done;
        print(
          `${now.seconds} s: ${(soak.bytes / 1e9).toFixed(2)} GB; ${echo} echo, ${chargen} chargen, ${discard} discard, ` +
            `${churn} churn; ${Math.round(now.rss / MIB)} MiB, ${now.descriptors} descriptors`,
        );
      };
      const timer = setInterval(report, Math.min(SAMPLE_MS, (seconds * 1000) / 10));
      const ended = vm.exited.then((exit) => soak.problems.push(`the VM ended: ${JSON.stringify(exit)}`));
      await Promise.race([soak.run(), ended, soak.stuck(start + seconds * 1000 + STUCK_MS)]);
      clearInterval(timer);
      report();
      await settled(idle);
      const left = openDescriptors() - idle;
      if (left > 0) soak.problems.push(`${left} descriptors are left when all clients are gone`);
      const files = readdirSync(directory);
      if (files.length !== sockets.length) soak.problems.push(`files are left beside the sockets: ${files.join(', ')}`);
      soak.problems.push(...growth(samples));
      for (const problem of soak.problems) print(`problem: ${problem}`);
      print(soak.problems.length === 0 ? 'soak: passed' : 'soak: FAILED');
      return soak.problems.length === 0;
    });
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

/** Waits until the device has let go of the last clients, within the 8 s that a guest has to answer SHUTDOWN. */
async function settled(idle: number): Promise<void> {
  const deadline = performance.now() + 10_000;
  while (openDescriptors() > idle && performance.now() < deadline) {
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** Whether memory went on growing after the warm-up: the lowest of the last samples against the lowest of the first. */
function growth(samples: readonly Sample[]): string[] {
  const counted = samples.slice(Math.floor(samples.length * WARM_UP_SHARE));
  const third = Math.ceil(counted.length / 3);
  const lowest = (some: readonly Sample[]): number => Math.min(...some.map(({ rss }) => rss));
  const grown = lowest(counted.slice(-third)) - lowest(counted.slice(0, third));
  print(`memory: ${grown >= 0 ? 'up' : 'down'} ${(Math.abs(grown) / MIB).toFixed(1)} MiB after the warm-up`);
  return grown > RSS_GROWTH_LIMIT ? [`memory grew by ${Math.round(grown / MIB)} MiB`] : [];
}

function print(line: string): void {
  process.stdout.write(`${line}\n`);
}

process.exitCode = (await main()) ? 0 : 1;
