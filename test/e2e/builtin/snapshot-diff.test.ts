// Saving a restored VM as a diff: small, as often as one likes, and refused where its base is not what it was.

import { cpSync, mkdtempSync, renameSync, rmSync, statSync, writeFileSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, expect, test } from '@jest/globals';
import { Vm } from '../../../src/vmm/vm.js';
import { describeKvm } from '../../support/kvm.js';
import { ConsoleRecorder, testConfig, withVm } from '../../support/vms.js';

const ECHO_PORT = 7;

let directory = '';
let base = '';
let number = 0;
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), 'tsvmm-diff-'));
});
afterAll(() => {
  rmSync(directory, { recursive: true });
});

/** A new whole snapshot of the built-in guest at its prompt. */
async function takeBase(): Promise<string> {
  const folder = join(directory, `${number++}`, 'base');
  await withVm(testConfig({ vsock: { cid: 3 }, no_reboot: false }), async (vm, console) => {
    await console.waitFor(/> $/);
    await vm.snapshot(folder);
  });
  return folder;
}

async function withRestored(folder: string, use: (vm: Vm) => Promise<void>): Promise<void> {
  const vm = await Vm.restore(folder);
  try {
    await vm.resume();
    await use(vm);
  } finally {
    await vm.stop();
  }
}

/** Has the guest do something that it counts. */
async function connectOnce(vm: Vm): Promise<void> {
  const stream = await vm.vsock.connect(ECHO_PORT, { waitForDriver: true });
  stream.end('x');
  for await (const bytes of stream) expect(String(bytes)).toBe('x');
}

async function connectionsCounted(vm: Vm): Promise<number> {
  const console = new ConsoleRecorder(vm);
  await vm.console.write('stats\r');
  const [, accepted] = await console.waitFor(/accepted (\d+)/);
  return Number(accepted);
}

describeKvm('a snapshot that is a diff', () => {
  beforeEach(async () => {
    base = await takeBase();
  });

  test('brings the guest back, from diff to diff, each with its base alone', async () => {
    const [first, second] = [join(base, '..', 'first'), join(base, '..', 'second')];
    await withRestored(base, async (vm) => {
      await connectOnce(vm);
      await vm.snapshot(first, { diff: true });
      await connectOnce(vm);
    });
    await withRestored(first, async (vm) => {
      expect(await connectionsCounted(vm)).toBe(1);
      for (let more = 0; more < 2; more++) await connectOnce(vm);
      await vm.snapshot(second, { diff: true });
    });
    rmSync(first, { recursive: true });
    const both = [withRestored, withRestored].map((restore) =>
      restore(second, async (vm) => {
        expect(await connectionsCounted(vm)).toBe(3);
        await connectOnce(vm);
        expect(await connectionsCounted(vm)).toBe(4);
      }),
    );
    await Promise.all(both);
    await withRestored(base, async (vm) => {
      expect(await connectionsCounted(vm)).toBe(0);
    });
  });

  test('holds less than the whole, and a whole one can be made of it', async () => {
    const [diff, whole] = [join(base, '..', 'diff'), join(base, '..', 'whole')];
    const blocks = (folder: string): number => statSync(join(folder, 'memory-ranges')).blocks;
    await withRestored(base, async (vm) => {
      await connectOnce(vm);
      await vm.snapshot(diff, { diff: true });
    });
    expect(blocks(diff)).toBeLessThan(blocks(base));
    await withRestored(diff, (vm) => vm.snapshot(whole));
    rmSync(base, { recursive: true });
    rmSync(diff, { recursive: true });
    await withRestored(whole, async (vm) => {
      expect(await connectionsCounted(vm)).toBe(1);
    });
  });

  test('after a reboot holds the guest that was loaded anew', async () => {
    const diff = join(base, '..', 'diff');
    await withRestored(base, async (vm) => {
      await connectOnce(vm);
      const console = new ConsoleRecorder(vm);
      await vm.console.write('reboot\r');
      await console.waitFor(/type help[^]*> $/);
      await vm.snapshot(diff, { diff: true });
    });
    await withRestored(diff, async (vm) => {
      expect(await connectionsCounted(vm)).toBe(0);
      await connectOnce(vm);
    });
  });

  test('may be moved together with its base, and says so when the base is gone or another', async () => {
    const diff = join(base, '..', 'diff');
    await withRestored(base, (vm) => vm.snapshot(diff, { diff: true }));
    const elsewhere = join(directory, `${number++}`);
    renameSync(join(base, '..'), elsewhere);
    const moved = join(elsewhere, 'diff');
    await withRestored(moved, connectOnce);
    renameSync(join(elsewhere, 'base'), join(elsewhere, 'kept'));
    const gone = /it is a diff, and its base cannot be read: .*base cannot be restored.*bring back/;
    await expect(Vm.restore(moved)).rejects.toThrow(gone);
    cpSync(await takeBase(), join(elsewhere, 'base'), { recursive: true });
    await expect(Vm.restore(moved)).rejects.toThrow(
      /it is a diff of a snapshot that was in .*base, where another is now/,
    );
    // A diff is no base.
    rmSync(join(elsewhere, 'base'), { recursive: true });
    cpSync(moved, join(elsewhere, 'base'), { recursive: true });
    await expect(Vm.restore(moved)).rejects.toThrow(/where another is now/);
    rmSync(join(elsewhere, 'base'), { recursive: true });
    renameSync(join(elsewhere, 'kept'), join(elsewhere, 'base'));
    await withRestored(moved, connectOnce);
  });

  test('is refused where there is nothing to be a diff of', async () => {
    const diff = join(base, '..', 'diff');
    await withVm(testConfig(), async (vm) => {
      await expect(vm.snapshot(diff, { diff: true })).rejects.toThrow(
        /was not restored from a snapshot; save the whole/,
      );
    });
    await withRestored(base, async (vm) => {
      await expect(vm.snapshot(join(base, '.'), { diff: true })).rejects.toThrow(
        /has the snapshot that the diff would/,
      );
      await vm.snapshot(base);
      await expect(vm.snapshot(diff, { diff: true })).rejects.toThrow(/has another snapshot now than the one/);
    });
    const shared = await Vm.restore(base, { overrides: { memory: { shared: true } } });
    try {
      await expect(shared.snapshot(diff, { diff: true })).rejects.toThrow(
        /shared=on or hugepages=on cannot be saved as a/,
      );
    } finally {
      await shared.stop();
    }
  });

  test.each<[string, (memory: Record<string, unknown>) => void]>([
    [
      'pages out of order',
      (memory) => (memory['pages'] = Buffer.from([8, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0]).toString('base64')),
    ],
    ['no pages', (memory) => delete memory['pages']],
    ['no base', (memory) => delete memory['base']],
  ])('with %s is refused', async (_, change) => {
    const diff = join(base, '..', 'diff');
    await withRestored(base, (vm) => vm.snapshot(diff, { diff: true }));
    const path = join(diff, 'state.json');
    const state = JSON.parse(readFileSync(path, 'utf8')) as { memory: Record<string, unknown> };
    change(state.memory);
    writeFileSync(path, JSON.stringify(state));
    await expect(Vm.restore(diff)).rejects.toThrow(/state\.json is damaged at memory/);
  });
});
