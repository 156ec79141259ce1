// Snapshots whose writer is killed, whose disk is full, and whose files somebody has changed: what is left is refused, or
// it is a whole snapshot.

import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import {
  copyFileSync,
  existsSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { Vm, VmError } from '../../../src/vmm/vm.js';
import { endIdleThreads } from '../../../src/vmm/worker-pool.js';
import { describeKvm } from '../../support/kvm.js';
import { openDescriptors, threads } from '../../support/process-state.js';
import { fuzzRun, Random } from '../../support/random.js';
import { ConsoleRecorder, testConfig, withVm } from '../../support/vms.js';

const WRITER = fileURLToPath(new URL('../../support/snapshot-writer.js', import.meta.url));
const FILES = ['config.json', 'memory-ranges', 'state.json'];
const ECHO_PORT = 7;
const ECHO_LIMIT_MS = 5000;

let directory = '';
let base = '';
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), 'tsvmm-snapshot-crash-'));
  base = join(directory, 'base');
});
afterAll(() => {
  rmSync(directory, { recursive: true });
});

/** The built-in guest at its prompt, before anybody has connected to it. */
async function takeBase(): Promise<void> {
  if (existsSync(join(base, 'state.json'))) return;
  const image = join(directory, 'disk.img');
  writeFileSync(image, new Uint8Array(1 << 20));
  const config = testConfig({
    vsock: { cid: 3 },
    disks: [{ path: image, image_type: 'Raw' }],
    console: { mode: 'Null' },
    rng: { src: '/dev/urandom' },
    balloon: { size: 0 },
  });
  await withVm(config, async (vm, console) => {
    await console.waitFor(/> $/);
    await vm.snapshot(base);
  });
}

/** How many connections the host had made to the guest when the state was saved. */
function connectionsOf(folder: string): number {
  const { devices } = JSON.parse(readFileSync(join(folder, 'state.json'), 'utf8')) as {
    devices: { state: { ephemeralPortsUsed: number } }[];
  };
  return devices[0].state.ephemeralPortsUsed;
}

async function echo(vm: Vm, text: string): Promise<string> {
  const stream = await vm.vsock.connect(ECHO_PORT, { signal: AbortSignal.timeout(ECHO_LIMIT_MS) });
  const limit = setTimeout(() => stream.destroy(new Error('no answer')), ECHO_LIMIT_MS);
  try {
    stream.end(text);
    let answer = '';
    for await (const bytes of stream) answer += String(bytes);
    return answer;
  } finally {
    clearTimeout(limit);
  }
}

/** Restores what is in `folder`: a whole guest, whose memory is of the moment of its devices' state; or it is refused. */
async function checkFolder(folder: string): Promise<'whole' | 'refused'> {
  let vm: Vm;
  try {
    vm = await Vm.restore(folder);
  } catch (error) {
    expect(error).toBeInstanceOf(VmError);
    expect((error as VmError).code).toBe('SNAPSHOT');
    return 'refused';
  }
  try {
    const console = new ConsoleRecorder(vm);
    await vm.resume();
    await vm.console.write(Buffer.from('stats\r'));
    const [, accepted] = await console.waitFor(/accepted (\d+)/);
    expect(Number(accepted)).toBe(connectionsOf(folder));
    expect(await echo(vm, folder)).toBe(folder);
    return 'whole';
  } finally {
    await vm.stop();
  }
}

describeKvm('a process that saves its VM over an older snapshot', () => {
  test('killed at 50 random moments: what it leaves is whole, or refused', async () => {
    await takeBase();
    const folder = join(directory, 'killed');
    mkdirSync(folder);
    for (const name of FILES) copyFileSync(join(base, name), join(folder, name));
    const { seed, cases } = fuzzRun(50);
    process.stdout.write(`kills: ${cases} cases, TSVMM_FUZZ_SEED=${seed}\n`);
    const random = new Random(seed);
    const outcomes = { whole: 0, refused: 0 };
    for (let done = 0; done < cases; done++) {
      const writer = spawn(process.execPath, [WRITER, base, folder], { stdio: ['ignore', 'pipe', 'inherit'] });
      const ended = once(writer, 'exit');
      try {
        const lines = createInterface(writer.stdout);
        await once(lines, 'line');
        const begin = performance.now();
        await once(lines, 'line');
        // Within the next saves but one or two.
        const saving = performance.now() - begin;
        await new Promise((resolve) => setTimeout(resolve, random.below(1000) * saving * 0.002));
      } finally {
        writer.kill('SIGKILL');
        await ended;
      }
      outcomes[await checkFolder(folder)]++;
    }
    // Both happen, or the moments were not random.
    if (cases >= 20) expect(Math.min(outcomes.whole, outcomes.refused)).toBeGreaterThan(0);
    await withVm(testConfig({ vsock: { cid: 3 } }), async (vm) => vm.snapshot(folder));
    expect(readdirSync(folder).sort()).toEqual(FILES);
  }, 300_000);
});

describeKvm('a snapshot that somebody has changed', () => {
  test('is refused or restored: nothing crashes, hangs or stays behind', async () => {
    await takeBase();
    const folder = join(directory, 'changed');
    mkdirSync(folder);
    copyFileSync(join(base, 'config.json'), join(folder, 'config.json'));
    linkSync(join(base, 'memory-ranges'), join(folder, 'memory-ranges'));
    const text = readFileSync(join(base, 'state.json'), 'utf8');
    const { seed, cases } = fuzzRun(150);
    process.stdout.write(`changed snapshots: ${cases} cases, TSVMM_FUZZ_SEED=${seed}\n`);
    await endIdleThreads();
    const before = [openDescriptors(), threads()];
    let restored = 0;
    for (let index = 0; index < cases; index++) {
      const random = new Random(seed + index);
      writeFileSync(
        join(folder, 'state.json'),
        random.oneIn(3) ? damageText(text, random) : damageValues(text, random),
      );
      try {
        const vm = await Vm.restore(folder);
        restored++;
        try {
          await vm.resume();
          // The guest may do anything now, but within its VM: the echo answers, or its time is up.
          await echo(vm, 'x').catch(() => undefined);
        } catch (error) {
          expect(error).toBeInstanceOf(VmError);
        } finally {
          await vm.stop();
        }
      } catch (error) {
        if (!(error instanceof VmError)) throw new Error(`case ${seed + index}`, { cause: error });
        expect(error.code).toBe('SNAPSHOT');
      }
    }
    expect(restored).toBeGreaterThan(0);
    await endIdleThreads();
    expect([openDescriptors(), threads()]).toEqual(before);
  }, 300_000);
});

/** Replaces, drops or doubles some bytes. */
function damageText(text: string, random: Random): string {
  const at = random.below(text.length);
  const length = random.size(200);
  const middle = random.pick(['', 'x', '0', '"', '{}', '-1', text.slice(at, at + 2 * length)]);
  return text.slice(0, at) + middle + text.slice(at + length);
}

/** Replaces some values by others of their type: what only a look at the meaning would find. */
function damageValues(text: string, random: Random): string {
  const state = JSON.parse(text) as unknown;
  for (let edits = random.size(4); edits > 0; edits--) {
    let holder = state as Record<string, unknown>;
    for (;;) {
      const key = random.pick(Object.keys(holder));
      const value = holder[key];
      if (typeof value === 'object' && value !== null && Object.keys(value).length > 0) {
        holder = value as Record<string, unknown>;
        continue;
      }
      holder[key] = otherValue(value, random);
      break;
    }
  }
  return JSON.stringify(state);
}

function otherValue(value: unknown, random: Random): unknown {
  switch (typeof value) {
    case 'number':
      return random.pick([0, 1, -1, 0.5, 65_535, 2 ** 31, 2 ** 53, value + 1, random.bits()]);
    case 'boolean':
      return !value;
    case 'string':
      if (value.startsWith('0x')) return `0x${random.bits().toString(16)}`;
      return random.oneIn(4) ? '' : flipBits(Buffer.from(value, 'base64'), random).toString('base64');
    default:
      return random.pick([null, 0, '', {}, []]);
  }
}

function flipBits(bytes: Buffer, random: Random): Buffer {
  for (let flips = random.size(16); flips > 0 && bytes.length > 0; flips--) {
    bytes[random.below(bytes.length)] ^= 1 << random.below(8);
  }
  return bytes;
}

describeKvm('a disk that is full', () => {
  test('there is no snapshot then, nothing that looks like one, and the VM goes on', async () => {
    const mount = join(directory, 'full');
    mkdirSync(mount);
    const mounted = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=64K', 'tmpfs', mount]);
    if (mounted.status !== 0) {
      process.stdout.write('not tested: no file system can be mounted here\n');
      return;
    }
    try {
      const folder = join(mount, 'snapshot');
      await withVm(testConfig({ vsock: { cid: 3 } }), async (vm, console) => {
        await console.waitFor(/> $/);
        await expect(vm.snapshot(folder)).rejects.toThrow(/cannot be written to .*ENOSPC.*room for the memory/);
        expect(readdirSync(folder)).toEqual([]);
        expect(await echo(vm, 'goes on')).toBe('goes on');
      });
      await expect(Vm.restore(folder)).rejects.toThrow(/has no state\.json/);
    } finally {
      spawnSync('umount', [mount]);
    }
  });
});
