// Kernel modules in an image: which folder is meant, what goes in and in which order it is listed, and what is refused. The
// modules are files of a few bytes.

import { mkdirSync, mkdtempSync, rmSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { execFileSync } from 'node:child_process';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { readFile } from 'node:fs/promises';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { buildImage, type ImageReport } from '../../src/image/build.js';
import { type KernelModules, modulesOfKernel } from '../../src/image/kernel-modules.js';
import { type CpioEntry, readCpio } from '../support/read-cpio.js';

const VERSION = '6.1.0-18-amd64';

/** The head of a relocatable ELF file for x86-64. */
function elf(machine = 62): Buffer {
  const head = Buffer.alloc(64);
  head.write('\x7fELF\x02\x01\x01', 'latin1');
  head.writeUInt16LE(1, 16);
  head.writeUInt16LE(machine, 18);
  return head;
}

const HEADS: Readonly<Record<string, Buffer>> = {
  ko: elf(),
  gz: Buffer.from([0x1f, 0x8b, 8]),
  xz: Buffer.from('\xfd7zXZ\0', 'latin1'),
  zst: Buffer.from([0x28, 0xb5, 0x2f, 0xfd]),
};

let folder = '';
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'tsvmm-modules-'));
});
afterEach(() => {
  rmSync(folder, { recursive: true });
});

/** Makes the modules of one kernel, each line of modules.dep with its file. */
function kernel(lines: readonly string[], builtin: readonly string[] = [], version = VERSION): string {
  const modules = join(folder, 'root/lib/modules', version);
  for (const path of lines.map((line) => line.slice(0, line.indexOf(':')))) {
    mkdirSync(join(modules, dirname(path)), { recursive: true });
    writeFileSync(join(modules, path), HEADS[path.slice(path.lastIndexOf('.') + 1)] ?? '');
  }
  mkdirSync(modules, { recursive: true });
  writeFileSync(join(modules, 'modules.dep'), lines.map((line) => `${line}\n`).join(''));
  writeFileSync(join(modules, 'modules.builtin'), builtin.map((path) => `${path}\n`).join(''));
  return modules;
}

async function build(modules: KernelModules): Promise<{ report: ImageReport; entries: CpioEntry[] }> {
  const output = join(folder, 'image.cpio');
  const report = await buildImage({ sources: [], modules, format: 'initramfs', compress: false, output });
  return { report, entries: readCpio(await readFile(output)) };
}

function listOf(entries: readonly CpioEntry[]): string[] {
  const list = entries.find(({ name }) => name === 'etc/tsvmm/modules')?.content.toString() ?? 'none';
  return list.split('\n').slice(0, -1);
}

const inImage = (...paths: string[]): string[] => paths.map((path) => `/usr/lib/modules/${VERSION}/${path}`);

describe('what goes in', () => {
  const LINES = [
    'kernel/net/vmw_vsock/vsock.ko.xz:',
    'kernel/net/vmw_vsock/vmw_vsock_virtio_transport.ko.xz: kernel/net/vmw_vsock/common.ko.zst kernel/net/vmw_vsock/vsock.ko.xz',
    'kernel/net/vmw_vsock/common.ko.zst: kernel/net/vmw_vsock/vsock.ko.xz',
    'kernel/drivers/char/virtio-rng.ko.gz:',
    'kernel/fs/xfs.ko: kernel/lib/crc.ko',
    'kernel/lib/crc.ko:',
    'kernel/sound.ko:',
  ];
  const WANTED = inImage(
    'kernel/net/vmw_vsock/vsock.ko.xz',
    'kernel/net/vmw_vsock/common.ko.zst',
    'kernel/net/vmw_vsock/vmw_vsock_virtio_transport.ko.xz',
    'kernel/drivers/char/virtio-rng.ko.gz',
  );

  test('what guests need, what that needs, and nothing else; as it is, for root, listed in the order of loading', async () => {
    kernel(LINES, ['kernel/drivers/virtio/virtio_mmio.ko']);
    const { report, entries } = await build({ path: join(folder, 'root') });
    expect(listOf(entries)).toEqual(WANTED);
    const files = entries.filter(({ name }) => name.includes('.ko'));
    expect(files.map(({ name }) => `/${name}`).sort()).toEqual([...WANTED].sort());
    for (const { name, content, mode, uid, gid } of files) {
      expect({ content, mode, uid, gid }).toEqual({
        content: HEADS[name.slice(name.lastIndexOf('.') + 1)],
        mode: 0o100644,
        uid: 0,
        gid: 0,
      });
    }
    expect(report.modules).toMatchObject({ version: VERSION, loaded: WANTED });
    expect(report.modules?.missing).toContain('virtio_blk');
    expect(report.modules?.missing).not.toContain('virtio_mmio');
    expect(report.modules?.missing).not.toContain('virtio_rng');
  });

  test('modules that are named as well, with "-" for "_" as it may be; of those in the kernel there is no file', async () => {
    const path = kernel(LINES, ['kernel/fs/ext4.ko']);
    const { report } = await build({ path, names: ['xfs', 'virtio_rng', 'ext4'] });
    expect(report.modules?.loaded).toEqual([...WANTED, ...inImage('kernel/lib/crc.ko', 'kernel/fs/xfs.ko')]);
  });

  test('the modules of file systems, by their name or the alias that the kernel asks for; without an error for none', async () => {
    const path = kernel([...LINES, 'kernel/fs/isofs.ko:'], ['kernel/fs/btrfs/btrfs.ko']);
    writeFileSync(join(path, 'modules.alias'), 'alias fs-iso9660 isofs\nalias iso9660 isofs\n');
    const { report } = await build({ path, fileSystems: ['xfs', 'iso9660', 'btrfs', 'zfs'] });
    const found = inImage('kernel/lib/crc.ko', 'kernel/fs/xfs.ko', 'kernel/fs/isofs.ko');
    expect(report.modules?.loaded).toEqual([...WANTED, ...found]);
  });

  test('a module that is nowhere is an error when it is named', async () => {
    const path = kernel(LINES);
    const error = { code: 'not-found', file: path, detail: expect.stringContaining('no module zfs') };
    await expect(build({ path, names: ['xfs', 'zfs'] })).rejects.toMatchObject(error);
  });

  test('a kernel without modules gives an empty list', async () => {
    const { report, entries } = await build({ path: kernel([]) });
    expect(listOf(entries)).toEqual([]);
    expect(report.modules?.loaded).toEqual([]);
  });

  test('links are followed, as distributions have them; the image has the file', async () => {
    const path = kernel(LINES);
    const rng = join(path, 'kernel/drivers/char/virtio-rng.ko.gz');
    rmSync(rng);
    writeFileSync(join(folder, 'elsewhere'), HEADS['gz']);
    symlinkSync(join(folder, 'elsewhere'), rng);
    const { entries } = await build({ path });
    expect(entries.find(({ name }) => name.endsWith('virtio-rng.ko.gz'))).toMatchObject({
      content: HEADS['gz'],
      mode: 0o100644,
    });
  });
});

describe('which folder is meant', () => {
  test.each([
    ['the folder itself', 'root/lib/modules/6.1.0-18-amd64'],
    ['a root', 'root'],
    ['the folder above', 'root/lib/modules'],
    ['with a slash', 'root/'],
  ])('%s', async (_, path) => {
    kernel(['kernel/a.ko:']);
    const { report } = await build({ path: join(folder, path), names: ['a'] });
    expect(report.modules).toMatchObject({ version: VERSION, loaded: inImage('kernel/a.ko') });
  });

  test('of several kernels the version says which', async () => {
    kernel(['kernel/a.ko:']);
    kernel(['kernel/b.ko:'], [], '6.12.1');
    const path = join(folder, 'root');
    await expect(build({ path })).rejects.toMatchObject({
      code: 'wrong-kind',
      detail: `it has the modules of several kernels: ${VERSION}, 6.12.1`,
    });
    const { report } = await build({ path, version: '6.12.1', names: ['b'] });
    expect(report.modules?.loaded).toEqual(['/usr/lib/modules/6.12.1/kernel/b.ko']);
    await expect(build({ path, version: '5.4.0' })).rejects.toMatchObject({
      code: 'not-found',
      detail: `the kernel is 5.4.0, and it has the modules of ${VERSION}, 6.12.1`,
    });
  });

  test('modules of another kernel, or of nobody knows which, are refused', async () => {
    const path = kernel(['kernel/a.ko:']);
    await expect(build({ path, version: '6.12.1' })).rejects.toMatchObject({ code: 'wrong-kind' });
    const nameless = join(folder, 'mods');
    mkdirSync(nameless);
    writeFileSync(join(nameless, 'modules.dep'), '');
    await expect(build({ path: nameless })).rejects.toMatchObject({ code: 'wrong-kind' });
  });

  test('a folder without modules, and one that is not there', async () => {
    await expect(build({ path: folder })).rejects.toMatchObject({
      code: 'not-found',
      mend: expect.stringMatching(/depmod/),
    });
    await expect(build({ path: join(folder, 'none') })).rejects.toMatchObject({ code: 'not-found' });
  });

  test('the modules of a kernel are beside it, beside its boot folder, or nowhere', async () => {
    const path = kernel([]);
    const root = join(folder, 'root');
    expect(await modulesOfKernel(join(root, 'boot/vmlinuz'), VERSION)).toBe(path);
    expect(await modulesOfKernel(join(path, 'vmlinuz'), VERSION)).toBe(path);
    expect(await modulesOfKernel(join(folder, 'vmlinuz'), `${VERSION}-none`)).toBeUndefined();
    expect(await modulesOfKernel(join(root, 'boot/vmlinuz'), `../modules/${VERSION}`)).toBeUndefined();
  });
});

describe('what is refused, with the file', () => {
  test.each([
    ['a file that is missing', (path: string) => rmSync(path), 'not-found'],
    ['text', (path: string) => writeFileSync(path, 'root:x:0:0:root:/root:/bin/sh\n'), 'bad-modules'],
    ['an empty file', (path: string) => truncateSync(path), 'bad-modules'],
    ['a module for another machine', (path: string) => writeFileSync(path, elf(183)), 'bad-modules'],
    [
      'a compressed file by the name of another',
      (path: string) => writeFileSync(path, HEADS['xz'] ?? ''),
      'bad-modules',
    ],
    ['a link to what no module is', (path: string) => link('/etc/passwd', path), 'bad-modules'],
    ['a link in a circle', (path: string) => link(path, path), 'wrong-kind'],
    ['a FIFO', (path: string) => fifo(path), 'wrong-kind'],
    ['a folder', (path: string) => folderAt(path), 'wrong-kind'],
  ] as const)('%s', async (_, spoil, code) => {
    const path = kernel(['kernel/a.ko:', 'kernel/b.ko: kernel/a.ko']);
    const file = join(path, 'kernel/a.ko');
    spoil(file);
    await expect(build({ path, names: ['b'] })).rejects.toMatchObject({ code, file });
  });

  test('modules.dep that leads out, that is no text of depmod, that has no end', async () => {
    const path = kernel([]);
    const file = join(path, 'modules.dep');
    writeFileSync(file, 'kernel/../../../../secret.ko:\n');
    await expect(build({ path })).rejects.toMatchObject({ code: 'bad-modules', file });
    truncateSync(file, 2 ** 40);
    await expect(build({ path })).rejects.toMatchObject({ code: 'too-large', file });
    fifo(file);
    await expect(build({ path })).rejects.toMatchObject({ code: 'wrong-kind', file });
  });
});

function link(target: string, path: string): void {
  rmSync(path);
  symlinkSync(target, path);
}

function folderAt(path: string): void {
  rmSync(path);
  mkdirSync(path);
}

function fifo(path: string): void {
  rmSync(path);
  execFileSync('mkfifo', [path]);
}
