// Frames a second through the network device, driven without a VM, against a C program that moves the same frames.
//
// A SEQPACKET socket stands in for the tap, since it takes and gives one frame a call too, and needs no privilege. Its
// other end is the same C program in both cases, and the reference is that program to itself.

import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { close } from '../src/platform/libc.js';
import { SOCK_SEQPACKET, socketPair } from '../src/platform/unix-socket.js';
import type { Fd } from '../src/platform/units.js';
import { buildReference, compared, median, type Bench, type Figure } from './harness.js';
import { NetRing } from './net-ring.js';

const ROUNDS = 5;
const SECONDS_PER_ROUND = 1;
const HEADER_SIZE = 12;
/** The smallest frame of Ethernet, a full one, and a segment that is yet to be cut. */
const SIZES = [60, 1514, 65_226];
/** Where the child finds its end of the socket. */
const CHILD_FD = 3;

/** Runs `measure` on one end of a socket while the C program works at the other. */
async function withPeer(program: string, args: readonly string[], measure: (fd: Fd) => number): Promise<number> {
  const [ours, theirs] = socketPair(SOCK_SEQPACKET);
  const child = spawn(program, [...args], { stdio: ['ignore', 'ignore', 'inherit', theirs] });
  const exited = once(child, 'exit');
  close(theirs);
  try {
    return measure(ours);
  } finally {
    // Either role ends when the other end is closed.
    close(ours);
    await exited;
  }
}

async function overRing(program: string, args: readonly string[], run: (ring: NetRing) => number): Promise<number> {
  return withPeer(program, args, (fd) => {
    const ring = new NetRing(fd);
    try {
      return run(ring);
    } finally {
      ring.close();
    }
  });
}

export const net: Bench = {
  name: 'net',
  description: "frames a second through the network device's rings, against a C program",
  async run(work) {
    const program = buildReference(work, 'net');
    const figures: Figure[] = [];
    for (const size of SIZES) {
      const bytes = size + HEADER_SIZE;
      const sent: number[] = [];
      const received: number[] = [];
      const reference: number[] = [];
      for (let round = 0; round < ROUNDS; round++) {
        sent.push(await overRing(program, ['sink', String(CHILD_FD)], (ring) => ring.send(bytes, SECONDS_PER_ROUND)));
        received.push(
          await overRing(program, ['source', String(CHILD_FD), String(bytes)], (ring) =>
            ring.receive(SECONDS_PER_ROUND),
          ),
        );
        const pair = execFileSync(program, ['pair', String(bytes), String(SECONDS_PER_ROUND)], { encoding: 'utf8' });
        reference.push(Number(pair));
      }
      const name = `frames of ${size} bytes`;
      figures.push(compared(`${name}, guest to host`, 'frames/s', median(sent), median(reference)));
      figures.push(compared(`${name}, host to guest`, 'frames/s', median(received), median(reference)));
      if (size === SIZES.at(-1)) {
        const perFrame = size / 1e9;
        figures.push(
          compared('the same, guest to host', 'GB/s', median(sent) * perFrame, median(reference) * perFrame),
        );
        figures.push(
          compared('the same, host to guest', 'GB/s', median(received) * perFrame, median(reference) * perFrame),
        );
      }
    }
    return figures;
  },
};
