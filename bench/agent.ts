// What a program in the guest and a file copy cost through the agent. References, in the same run: the same agent on this host
// by its --unix mode, which is the protocol without a VM, and for programs and files what Node and cp take by themselves.
//
// The guest is the Linux of the tests with the agent in its initramfs, booted once. Where KVM emulates the guest's kernel mode
// (test/guest/README.md), starting a program there is most of a figure: its fork and exec take hundreds of milliseconds.

import { execFileSync, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { GuestAgent } from '../src/agent/guest-agent.js';
import { GUEST_AGENT } from '../src/agent/binary.js';
import { MIB } from '../src/platform/units.js';
import { buildCpio } from '../test/support/cpio.js';
import { COMMAND_LIMIT_MS, LINUX_CMDLINE, LinuxGuest } from '../test/support/linux-guest.js';
import { LocalAgent } from '../test/support/local-agent.js';
import { compared, median, type Bench, type Figure } from './harness.js';
import { buildLinux } from './linux-artefacts.js';

const ROUNDS = 3;
const PINGS = 9;
/** What any machine has. */
const NOTHING = ['/bin/sh', '-c', ':'];
const FILE_SIZE = 8 * MIB;
/** An archive of initramfs parts begins at a multiple of this. */
const CPIO_ALIGNMENT = 512;

/** Milliseconds, and MB/s. */
interface Measured {
  readonly ping: number;
  readonly connect: number;
  readonly exec: number;
  readonly copyIn: number;
  readonly copyOut: number;
}

async function timed(action: () => Promise<unknown>): Promise<number> {
  const begin = performance.now();
  await action();
  return performance.now() - begin;
}

function megabytesPerSecond(milliseconds: number): number {
  return FILE_SIZE / 1e6 / (milliseconds / 1000);
}

/** One round with an agent; `there` is a path of its machine. */
async function measure(agent: GuestAgent, file: string, there: string): Promise<Measured> {
  const pings: number[] = [];
  const connects: number[] = [];
  for (let count = 0; count < PINGS; count++) {
    let ping = 0;
    const whole = await timed(async () => {
      ping = await agent.ping();
    });
    pings.push(ping);
    connects.push(whole);
  }
  const exec = await timed(async () => {
    const { exitCode } = await agent.run(NOTHING);
    if (exitCode !== 0) throw new Error(`${NOTHING.join(' ')} has ended with ${exitCode ?? 'a signal'}`);
  });
  const copyIn = await timed(() => agent.copyIn(file, there));
  const back = `${file}.back`;
  const copyOut = await timed(() => agent.copyOut(there, back));
  if (!readFileSync(back).equals(readFileSync(file))) throw new Error('the file came back as another');
  rmSync(back);
  return {
    ping: median(pings),
    connect: median(connects),
    exec,
    copyIn: megabytesPerSecond(copyIn),
    copyOut: megabytesPerSecond(copyOut),
  };
}

/** The same without an agent: Node starts a program, cp copies. */
async function measureHost(file: string): Promise<{ readonly exec: number; readonly copy: number }> {
  const exec = await timed(() =>
    once(spawn(NOTHING[0], NOTHING.slice(1), { stdio: ['pipe', 'pipe', 'pipe'] }), 'close'),
  );
  const target = `${file}.copy`;
  const copy = await timed(() => once(spawn('cp', [file, target]), 'close'));
  rmSync(target);
  return { exec, copy: megabytesPerSecond(copy) };
}

/** The Linux guest with the agent in it, which waits for the caller. */
async function bootGuest(work: string): Promise<LinuxGuest> {
  const { kernel, initramfs } = buildLinux();
  // Where the tests' guest looks for what is not named.
  Object.assign(process.env, { TSVMM_TEST_KERNEL: kernel, TSVMM_TEST_INITRAMFS: initramfs });
  const archive = readFileSync(initramfs);
  const padding = Buffer.alloc((CPIO_ALIGNMENT - (archive.length % CPIO_ALIGNMENT)) % CPIO_ALIGNMENT);
  const agent = { mode: 0o100755, content: readFileSync(GUEST_AGENT) };
  const path = join(work, 'initramfs');
  writeFileSync(path, Buffer.concat([archive, padding, buildCpio({ agent })]));
  const guest = await LinuxGuest.boot({
    memory: { size: 128 * MIB },
    // An agent that cannot fork at once on a busy host is waited for.
    vsock: { cid: 3, connect_timeout_ms: COMMAND_LIMIT_MS },
    payload: { kernel, initramfs: path, cmdline: LINUX_CMDLINE },
  });
  const ready = guest.vm.agent.waitReady({ timeout: COMMAND_LIMIT_MS });
  await Promise.all([ready, guest.run('/agent --daemon')]);
  return guest;
}

export const agent: Bench = {
  name: 'agent',
  description: "the guest agent's programs and copies in Linux, against the same agent on the host, spawn and cp",
  async run(work) {
    const file = join(work, 'file');
    writeFileSync(file, randomBytes(FILE_SIZE));
    const local = await LocalAgent.start();
    try {
      const guest = await bootGuest(work);
      try {
        const rounds: { guest: Measured; local: Measured; host: { exec: number; copy: number } }[] = [];
        for (let round = 0; round < ROUNDS; round++) {
          const host = await measureHost(file);
          const ofLocal = await measure(local.agent, file, local.path(`file-${round}`));
          rounds.push({ guest: await measure(guest.vm.agent, file, `/file-${round}`), local: ofLocal, host });
          await guest.run(`rm /file-${round}`);
          execFileSync('rm', [local.path(`file-${round}`)]);
        }
        return figures(rounds);
      } finally {
        await guest.vm.stop();
      }
    } finally {
      await local.stop();
    }
  },
};

function figures(
  rounds: readonly { guest: Measured; local: Measured; host: { exec: number; copy: number } }[],
): Figure[] {
  const of = (who: 'guest' | 'local', key: keyof Measured): number => median(rounds.map((round) => round[who][key]));
  const exec = median(rounds.map((round) => round.host.exec));
  const copy = median(rounds.map((round) => round.host.copy));
  const guest = (name: string, unit: string, key: keyof Measured): Figure =>
    compared(name, unit, of('guest', key), of('local', key));
  return [
    guest('ping in Linux, against the agent on the host', 'ms', 'ping'),
    guest('  with its connection', 'ms', 'connect'),
    guest('a shell that ends at once', 'ms', 'exec'),
    guest('copy in, 8 MiB', 'MB/s', 'copyIn'),
    guest('copy out, 8 MiB', 'MB/s', 'copyOut'),
    compared('a shell that ends at once, by the agent on the host, against spawn', 'ms', of('local', 'exec'), exec),
    compared('copy in by the agent on the host, against cp', 'MB/s', of('local', 'copyIn'), copy),
    compared('copy out by the agent on the host, against cp', 'MB/s', of('local', 'copyOut'), copy),
  ];
}
