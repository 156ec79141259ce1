// Saving a VM into a folder and bringing it back.

import { mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { Vm } from '../../../src/vmm/vm.js';
import { endIdleThreads } from '../../../src/vmm/worker-pool.js';
import { describeKvm } from '../../support/kvm.js';
import { openDescriptors, threads } from '../../support/process-state.js';
import { ConsoleRecorder, testConfig, withVm } from '../../support/vms.js';
import { connectVsock, readAll } from '../../support/vsock-client.js';

const ECHO_PORT = 7;

let directory = '';
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), 'tsvmm-snapshot-'));
});
afterAll(() => {
  rmSync(directory, { recursive: true });
});

async function echo(socket: string, text: string): Promise<string> {
  const client = await connectVsock(socket, ECHO_PORT);
  client.end(text);
  return (await readAll(client)).toString();
}

/** A snapshot of the built-in guest at its prompt, with two vCPUs and vsock. */
async function takeSnapshot(name: string): Promise<{ folder: string; socket: string }> {
  const folder = join(directory, name);
  const socket = join(directory, `${name}.vsock`);
  const config = testConfig({ vsock: { cid: 3, socket }, cpus: { boot_vcpus: 2, max_vcpus: 2 } });
  await withVm(config, async (vm, console) => {
    await console.waitFor(/> $/);
    await vm.snapshot(folder);
  });
  return { folder, socket };
}

describeKvm('a snapshot', () => {
  test('rule 23: is restored twice at the same time, each with its own socket, and the guest goes on', async () => {
    const { folder, socket } = await takeSnapshot('twice');
    const restore = (number: number): Promise<Vm> =>
      Vm.restore(folder, { overrides: { vsock: { socket: `${socket}.${number}` } } });
    const vms = await Promise.all([restore(1), restore(2)]);
    try {
      for (const vm of vms) await vm.resume();
      expect(await echo(`${socket}.1`, 'first')).toBe('first');
      expect(await echo(`${socket}.2`, 'second')).toBe('second');
      const [first] = vms;
      const console = new ConsoleRecorder(first);
      await first.console.write(Buffer.from('stats\r'));
      await console.waitFor(/stats[^]*> $/);
      await first.console.write(Buffer.from('poweroff\r'));
      expect(await first.exited).toEqual({ reason: 'shutdown' });
      expect(await echo(`${socket}.2`, 'alone')).toBe('alone');
    } finally {
      for (const vm of vms) await vm.stop();
    }
  });

  test('leaves the VM that was saved running, with its connections', async () => {
    const socket = join(directory, 'goes-on.vsock');
    await withVm(testConfig({ vsock: { cid: 3, socket } }), async (vm, console) => {
      await console.waitFor(/> $/);
      const client = await connectVsock(socket, ECHO_PORT);
      const received = readAll(client);
      client.write('before, ');
      for (let round = 0; round < 3; round++) await vm.snapshot(join(directory, 'goes-on'));
      client.end('after');
      expect((await received).toString()).toBe('before, after');
    });
  });

  test('rule 22: of a guest with connections: the restored one has none, and takes new ones on other ports', async () => {
    const folder = join(directory, 'connected');
    const socket = join(directory, 'connected.vsock');
    let firstPort = 0;
    await withVm(testConfig({ vsock: { cid: 3, socket } }), async (vm, console) => {
      await console.waitFor(/> $/);
      const client = await connectVsock(socket, ECHO_PORT);
      client.on('error', () => undefined);
      firstPort = (await vm.vsock.connections())[0].peerPort;
      await vm.snapshot(folder);
      client.destroy();
    });
    const vm = await Vm.restore(folder);
    try {
      await vm.resume();
      expect(await vm.vsock.connections()).toEqual([]);
      const again = await connectVsock(socket, ECHO_PORT);
      expect((await vm.vsock.connections())[0].peerPort).toBeGreaterThan(firstPort);
      again.end('anew');
      expect((await readAll(again)).toString()).toBe('anew');
    } finally {
      await vm.stop();
    }
  });

  test('of a restored guest is a snapshot as well, even before it was resumed', async () => {
    const { folder, socket } = await takeSnapshot('chain');
    const vm = await Vm.restore(folder);
    const second = join(directory, 'chain-2');
    await vm.snapshot(second);
    await vm.resume();
    expect(await echo(socket, 'one')).toBe('one');
    const third = join(directory, 'chain-3');
    await vm.snapshot(third);
    await vm.stop();
    for (const source of [second, third]) {
      const again = await Vm.restore(source);
      await again.resume();
      expect(await echo(socket, source)).toBe(source);
      await again.stop();
    }
  });

  test('clones that would write to one image are refused by its lock, and may have copies', async () => {
    const folder = join(directory, 'with-disk');
    const [image, copy, larger] = ['a.img', 'b.img', 'c.img'].map((name) => join(directory, name));
    for (const path of [image, copy]) writeFileSync(path, new Uint8Array(1 << 20));
    writeFileSync(larger, new Uint8Array(1 << 21));
    await withVm(testConfig({ disks: [{ path: image, image_type: 'Raw' }] }), async (vm, console) => {
      await console.waitFor(/> $/);
      await vm.snapshot(folder);
      // The one that was saved has it still.
      await expect(Vm.restore(folder)).rejects.toMatchObject({ code: 'DISK_IN_USE' });
    });
    const first = await Vm.restore(folder);
    try {
      await expect(Vm.restore(folder)).rejects.toMatchObject({ code: 'DISK_IN_USE' });
      await expect(Vm.restore(folder, { overrides: { disks: [{ path: larger }] } })).rejects.toThrow(
        /device _disk0 cannot go on: it had 2048 sectors, and has 4096/,
      );
      const second = await Vm.restore(folder, { overrides: { disks: [{ path: copy }] } });
      await second.resume();
      await second.stop();
    } finally {
      await first.stop();
    }
  });

  test('is not taken of persistent memory that is in no file', async () => {
    const file = join(directory, 'pmem');
    writeFileSync(file, new Uint8Array(2 << 20));
    await withVm(testConfig({ pmem: [{ file, discard_writes: true }] }), async (vm, console) => {
      await console.waitFor(/> $/);
      await expect(vm.snapshot(join(directory, 'pmem-snapshot'))).rejects.toThrow(/--pmem file=.* is in no file/);
    });
  });

  test('may have another context id in a clone', async () => {
    const { folder, socket } = await takeSnapshot('cid');
    const vm = await Vm.restore(folder, { overrides: { vsock: { cid: 77 } } });
    try {
      const console = new ConsoleRecorder(vm);
      await vm.resume();
      expect(vm.vsock.cid).toBe(77);
      expect(await echo(socket, 'as another')).toBe('as another');
      await vm.console.write(Buffer.from('stats\r'));
      await console.waitFor(/> $/);
      expect(vm.vsock.counters().guestFaults).toBe(0);
    } finally {
      await vm.stop();
    }
  });

  test('reboots into a fresh guest', async () => {
    const { folder, socket } = await takeSnapshot('reboot');
    const vm = await Vm.restore(folder, { overrides: { no_reboot: false } });
    try {
      const console = new ConsoleRecorder(vm);
      await vm.resume();
      await vm.console.write(Buffer.from('reboot\r'));
      await console.waitFor(/tsvmm guest [^]*> $/);
      expect(await echo(socket, 'fresh')).toBe('fresh');
    } finally {
      await vm.stop();
    }
  });

  test('holds only the memory that the guest has touched, and secrets of it are not for others', async () => {
    const { folder } = await takeSnapshot('sparse');
    const memory = statSync(join(folder, 'memory-ranges'));
    expect(memory.size).toBe(64 * 1024 * 1024);
    expect(memory.blocks * 512).toBeLessThan(memory.size / 4);
    expect(memory.mode & 0o077).toBe(0);
  });

  test('taken and restored again and again leaks nothing', async () => {
    const { folder, socket } = await takeSnapshot('leaks');
    const once = async (): Promise<void> => {
      const vm = await Vm.restore(folder);
      await vm.resume();
      await echo(socket, 'x');
      await vm.snapshot(folder);
      await vm.stop();
    };
    await once();
    await endIdleThreads();
    const before = [openDescriptors(), threads()];
    for (let round = 0; round < 10; round++) await once();
    await endIdleThreads();
    expect([openDescriptors(), threads()]).toEqual(before);
  }, 60_000);
});

describeKvm('what is not a snapshot', () => {
  let good = '';
  beforeAll(async () => {
    good = (await takeSnapshot('good')).folder;
  });

  function copyWith(change: (folder: string) => void): string {
    const folder = mkdtempSync(join(directory, 'bad-'));
    mkdirSync(folder, { recursive: true });
    for (const name of ['state.json', 'config.json', 'memory-ranges']) {
      writeFileSync(join(folder, name), readFileSync(join(good, name)));
    }
    change(folder);
    return folder;
  }

  function editState(folder: string, edit: (state: Record<string, unknown>) => void): void {
    const path = join(folder, 'state.json');
    const state = JSON.parse(readFileSync(path, 'utf8')) as Record<string, unknown>;
    edit(state);
    writeFileSync(path, JSON.stringify(state));
  }

  test.each<[string, (folder: string) => void, RegExp]>([
    [
      'without state.json',
      (folder) => {
        rmSync(join(folder, 'state.json'));
      },
      /has no state\.json.*interrupted/,
    ],
    [
      'without memory',
      (folder) => {
        rmSync(join(folder, 'memory-ranges'));
      },
      /memory-ranges cannot be opened \(ENOENT\)/,
    ],
    [
      'with half the memory',
      (folder) => {
        truncateSync(join(folder, 'memory-ranges'), 1 << 20);
      },
      /memory-ranges has 1048576 bytes instead of 67108864/,
    ],
    [
      'that is no JSON',
      (folder) => {
        writeFileSync(join(folder, 'state.json'), '{"a');
      },
      /state\.json is damaged/,
    ],
    [
      'of another version',
      (folder) => {
        editState(folder, (state) => {
          state['version'] = 99;
        });
      },
      /has version 99, and this tsvmm reads version 2/,
    ],
    [
      'with a field missing',
      (folder) => {
        editState(folder, (state) => {
          delete state['pit'];
        });
      },
      /damaged at pit/,
    ],
    [
      'with a device missing',
      (folder) => {
        editState(folder, (state) => {
          state['devices'] = [];
        });
      },
      /the snapshot has the devices .*and the configuration vsock/,
    ],
    [
      'with a vCPU missing',
      (folder) => {
        editState(folder, (state) => {
          (state['vcpus'] as unknown[]).pop();
        });
      },
      /has 1 vCPUs, and the configuration 2/,
    ],
    [
      'with a configuration that makes no sense',
      (folder) => {
        writeFileSync(join(folder, 'config.json'), '{"cpuz":{}}');
      },
      /cpuz/,
    ],
  ])('%s is refused with the reason', async (_what, change, reason) => {
    await expect(Vm.restore(copyWith(change))).rejects.toThrow(reason);
  });
});
