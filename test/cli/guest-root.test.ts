// What a guest of `tsvmm run` boots from: the archives that are made for it.

import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { GUEST_AGENT } from '../../src/agent/binary.js';
import { type PreparedRoot, prepareRoot, type RootRequest } from '../../src/cli/guest-root.js';
import { RunFolder } from '../../src/cli/run-folder.js';
import { DEFAULT_VM_CONFIG, type VmConfig } from '../../src/config/vm-config.js';
import { buildBzImage, buildElf } from '../boot/support.js';
import { buildCpio } from '../support/cpio.js';
import { type CpioEntry, readCpio } from '../support/read-cpio.js';

const MODULES = { path: undefined, names: [] };

let scratch = '';
let folder: RunFolder;

beforeEach(() => {
  scratch = mkdtempSync(join(tmpdir(), 'tsvmm-guest-root-'));
  folder = new RunFolder();
});
afterEach(() => {
  folder.remove();
  rmSync(scratch, { recursive: true });
});

function prepare(config: Partial<VmConfig>, request: Partial<RootRequest> = {}): Promise<PreparedRoot> {
  const { signal } = new AbortController();
  return prepareRoot(
    { ...DEFAULT_VM_CONFIG, ...config },
    { sources: [], modules: MODULES, program: 'true', signal, ...request },
    folder,
  );
}

function entriesOf({ config }: PreparedRoot): CpioEntry[] {
  return readCpio(readFileSync(config.payload.initramfs ?? ''));
}

function isAgent(entry: CpioEntry | undefined): boolean {
  return entry?.mode === 0o100755 && entry.content.equals(readFileSync(GUEST_AGENT));
}

describe('without a root', () => {
  test('it is the program, a shell and the agent', async () => {
    const root = await prepare({}, { program: 'true' });
    const entries = entriesOf(root);
    expect(isAgent(entries.find(({ name }) => name === 'init'))).toBe(true);
    expect(entries.some(({ name }) => /(^|\/)bin\/true$/.test(name))).toBe(true);
    expect(entries.some(({ name }) => /(^|\/)bin\/sh$/.test(name))).toBe(true);
    expect(root.program).toBe('true');
    expect(root.config.payload.cmdline).toBe('console=ttyS0 reboot=k panic=-1');
  });

  test('a program that the guest would not find by its name has its path', async () => {
    const path = join(scratch, 'own');
    writeFileSync(path, '#!/bin/sh\n', { mode: 0o755 });
    const root = await prepare({}, { program: path });
    expect(root.program).toBe(path);
    expect(entriesOf(root).some(({ name }) => name === path.slice(1))).toBe(true);
  });

  test('a program that this host does not have is 127 before anything boots', async () => {
    await expect(prepare({}, { program: 'no-such-program' })).rejects.toMatchObject({ code: 'PROGRAM_NOT_FOUND' });
  });

  test('a folder goes over them, and may bring the program', async () => {
    writeFileSync(join(scratch, 'tool'), '#!/bin/sh\n', { mode: 0o755 });
    const root = await prepare({}, { program: '/tool', sources: [{ kind: 'folder', path: scratch }] });
    expect(entriesOf(root).map(({ name }) => name)).toEqual(expect.arrayContaining(['init', 'tool']));
    expect(root.program).toBe('/tool');
  });

  test('disks beside a folder are no root', async () => {
    const sources = [{ kind: 'folder', path: scratch }] as const;
    const root = await prepare({ disks: [{ path: '/d' }] }, { sources });
    expect(root.config.payload.cmdline).not.toContain('root=');
  });

  test('its files are in a folder of their own, and go with it', async () => {
    const root = await prepare({});
    const path = root.config.payload.initramfs ?? '';
    expect(readdirSync(join(path, '..'))).toEqual(['root']);
    folder.remove();
    expect(() => readFileSync(path)).toThrow(/ENOENT/);
  });
});

describe('with an initramfs', () => {
  const base = buildCpio({ init: { mode: 0o100755, content: 'own' }, odd: { mode: 0o100644, content: 'x' } });

  test('the agent follows it, and is the init', async () => {
    const path = join(scratch, 'base');
    writeFileSync(path, base, { mode: 0o400 });
    const root = await prepare({ payload: { kernel: 'k', initramfs: path, cmdline: 'quiet panic=5' } });
    const bytes = readFileSync(root.config.payload.initramfs ?? '');
    expect(bytes.subarray(0, base.length).equals(base)).toBe(true);
    const added = readCpio(bytes.subarray(base.length + (-base.length & 3)));
    expect(isAgent(added.find(({ name }) => name === 'tsvmm-agent'))).toBe(true);
    expect(root.config.payload.cmdline).toBe('quiet panic=5 rdinit=/tsvmm-agent');
    expect(readFileSync(path).equals(base)).toBe(true);
  });

  test('one that is compressed is left as it is, and followed at a multiple of 4', async () => {
    const path = join(scratch, 'base.gz');
    const compressed = Buffer.concat([gzipSync(base), Buffer.alloc(1)]);
    writeFileSync(path, compressed);
    const root = await prepare({ payload: { kernel: 'k', initramfs: path } });
    const bytes = readFileSync(root.config.payload.initramfs ?? '');
    const start = bytes.indexOf('070701', compressed.length);
    expect(start % 4).toBe(0);
    expect(bytes.subarray(compressed.length, start).every((byte) => byte === 0)).toBe(true);
    expect(isAgent(readCpio(bytes.subarray(start)).find(({ name }) => name === 'tsvmm-agent'))).toBe(true);
  });

  test('a folder goes over it', async () => {
    const path = join(scratch, 'base');
    writeFileSync(path, base);
    mkdirSync(join(scratch, 'over'));
    writeFileSync(join(scratch, 'over', 'more'), '');
    const sources = [{ kind: 'folder', path: join(scratch, 'over') }] as const;
    const root = await prepare({ payload: { kernel: 'k', initramfs: path } }, { sources });
    const archives = readFileSync(root.config.payload.initramfs ?? '', 'latin1').split('TRAILER!!!');
    expect(archives.length).toBe(4);
    // Without an init of its own, which might be another name of something in the first.
    expect(archives[1]).toMatch(/[0-9a-f]more\0/);
    expect(archives[1]).not.toMatch(/[0-9a-f]init\0/);
    expect(archives[2]).toMatch(/[0-9a-f]tsvmm-agent\0/);
  });

  test.each(['rdinit=/start', 'quiet init=/bin/sh'])(
    'another init on the command line is refused: %s',
    async (cmdline) => {
      await expect(prepare({ payload: { kernel: 'k', cmdline } })).rejects.toThrow(/names an init.*--init guest/s);
    },
  );
});

describe('kernel modules', () => {
  const VERSION = '6.1.0-tsvmm';
  const PLACE = `usr/lib/modules/${VERSION}`;

  beforeEach(() => {
    mkdirSync(join(scratch, 'boot'));
    writeFileSync(join(scratch, 'boot', 'vmlinuz'), buildBzImage({ kernelVersion: `${VERSION} (builder@host) #1` }));
    writeFileSync(join(scratch, 'boot', 'vmlinux'), buildElf());
    const folder = join(scratch, 'lib', 'modules', VERSION);
    mkdirSync(folder, { recursive: true });
    writeFileSync(join(folder, 'modules.dep'), 'ext4.ko.xz: jbd2.ko.xz\njbd2.ko.xz:\nxfs.ko.xz:\n');
    writeFileSync(join(folder, 'modules.builtin'), 'virtio_mmio.ko\nvmw_vsock_virtio_transport.ko\n');
    for (const name of ['ext4', 'jbd2', 'xfs']) writeFileSync(join(folder, `${name}.ko.xz`), '\xfd7zXZ\0', 'latin1');
  });

  const payload = (name: string, cmdline = 'quiet') => ({ payload: { kernel: join(scratch, 'boot', name), cmdline } });

  /** The list of the archive, and that its files are there. */
  function listIn(entries: readonly CpioEntry[]): string[] | undefined {
    const text = entries.find(({ name }) => name === 'etc/tsvmm/modules')?.content.toString();
    const paths = text?.split('\n').slice(0, -1);
    for (const path of paths ?? []) expect(entries.map(({ name }) => `/${name}`)).toContain(path);
    return paths?.map((path) => path.replace(`/${PLACE}/`, ''));
  }

  test('those of the kernel are found by what the kernel says of itself, and come with the root', async () => {
    const root = await prepare(payload('vmlinuz'));
    expect(listIn(entriesOf(root))).toEqual(['jbd2.ko.xz', 'ext4.ko.xz']);
    expect(root.notes).toEqual([]);
  });

  test('a disk gets those of its file system, if the command line has one', async () => {
    const config = { disks: [{ path: '/d' }], ...payload('vmlinuz', 'root=/dev/vda1 rootfstype=xfs') };
    expect(listIn(entriesOf(await prepare(config)))).toEqual(['jbd2.ko.xz', 'ext4.ko.xz', 'xfs.ko.xz']);
  });

  test('of a kernel that does not say what it is there are none, unless they are named', async () => {
    expect(listIn(entriesOf(await prepare(payload('vmlinux'))))).toBeUndefined();
    const modules = { path: scratch, names: ['xfs'] };
    const list = listIn(entriesOf(await prepare(payload('vmlinux'), { modules })));
    expect(list).toEqual(['jbd2.ko.xz', 'ext4.ko.xz', 'xfs.ko.xz']);
  });

  test('none are put in when none are wanted', async () => {
    const root = await prepare(payload('vmlinuz'), { modules: { path: 'none', names: [] } });
    expect(listIn(entriesOf(root))).toBeUndefined();
  });

  test('those of another kernel are refused, with both versions', async () => {
    writeFileSync(join(scratch, 'boot', 'vmlinuz'), buildBzImage({ kernelVersion: '6.9.9 (x)' }));
    const refusal = prepare(payload('vmlinuz'), { modules: { path: scratch, names: [] } });
    await expect(refusal).rejects.toThrow(/the kernel is 6\.9\.9, and it has the modules of 6\.1\.0-tsvmm/);
  });

  test('an initramfs is followed by them, then by the agent', async () => {
    const path = join(scratch, 'base');
    const base = buildCpio({ init: { mode: 0o100755, content: 'own' } });
    writeFileSync(path, base);
    const root = await prepare({ payload: { ...payload('vmlinuz').payload, initramfs: path } });
    const bytes = readFileSync(root.config.payload.initramfs ?? '');
    const archives = bytes.toString('latin1').split('TRAILER!!!');
    expect(archives.length).toBe(4);
    expect(archives[1]).toContain(`${PLACE}/ext4.ko.xz\0`);
    // /lib is a link in many an initramfs, and a folder of that name would take its place.
    expect(archives[1]).not.toMatch(/[0-9a-f]lib\0/);
    expect(archives[2]).toMatch(/[0-9a-f]tsvmm-agent\0/);
  });

  test('a kernel without what the agent is reached by is told of', async () => {
    writeFileSync(join(scratch, 'lib', 'modules', VERSION, 'modules.builtin'), 'virtio_mmio.ko\n');
    const { notes } = await prepare(payload('vmlinuz'));
    expect(notes).toEqual([
      `the kernel ${VERSION} has no vmw_vsock_virtio_transport, without which its guest is not reached`,
    ]);
  });
});

describe('with a disk', () => {
  test.each<[Partial<VmConfig>, string]>([
    [{ disks: [{ path: '/d' }] }, 'panic=-1 root=/dev/vda rw'],
    [{ disks: [{ path: '/d', readonly: true }, { path: '/e' }] }, 'panic=-1 root=/dev/vda ro'],
    [{ pmem: [{ file: '/p' }] }, 'panic=-1 root=/dev/pmem0 rw'],
    [{ disks: [{ path: '/d' }], payload: { cmdline: 'ro panic=1' } }, 'ro panic=1 root=/dev/vda'],
    [{ disks: [{ path: '/d' }], payload: { cmdline: 'root=/dev/vda2 panic=1' } }, 'root=/dev/vda2 panic=1'],
  ])('the agent mounts it: %j', async (config, cmdline) => {
    const root = await prepare(config);
    expect(root.config.payload.cmdline?.endsWith(cmdline)).toBe(true);
    const names = entriesOf(root).map(({ name }) => name);
    expect(names.filter((name) => name !== '.')).toEqual(['init']);
  });
});
