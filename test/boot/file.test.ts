import { spawnSync } from 'node:child_process';
import { chmodSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { describe, expect, test } from '@jest/globals';

import type { BootErrorCode } from '../../src/boot/errors.js';
import { BootFile, unreadable } from '../../src/boot/file.js';
import { recogniseFormat } from '../../src/boot/format.js';
import { parseElfKernel } from '../../src/boot/elf.js';
import { bootErrorOf, withDirectory, withFile } from './support.js';

function openFdCount(): number {
  return readdirSync('/proc/self/fd').length;
}

function refusal(path: string): { code: BootErrorCode; detail: string } {
  const before = openFdCount();
  const error = bootErrorOf(() => new BootFile(path, 'kernel'));
  expect(openFdCount()).toBe(before);
  expect(error.path).toBe(path);
  return error;
}

describe('boot files', () => {
  test('a missing file is not-found', () => {
    withDirectory((directory) => {
      expect(refusal(join(directory, 'none'))).toMatchObject({
        code: 'not-found',
        detail: 'the kernel does not exist',
      });
      expect(refusal(join(directory, 'none', 'below')).code).toBe('not-found');
    });
  });

  test('a path through a file is not-found', () => {
    withFile(Buffer.from('x'), (path) => {
      expect(refusal(join(path, 'below')).code).toBe('not-found');
    });
  });

  test('a directory, a FIFO and a device are named, and opening a FIFO does not wait', () => {
    withDirectory((directory) => {
      const fifo = join(directory, 'fifo');
      spawnSync('mkfifo', [fifo]);
      expect(refusal(directory)).toMatchObject({ code: 'not-a-file', detail: 'the kernel is a directory' });
      expect(refusal(fifo)).toMatchObject({ code: 'not-a-file', detail: 'the kernel is a FIFO' });
      expect(refusal('/dev/null')).toMatchObject({ code: 'not-a-file', detail: 'the kernel is a device' });
    });
  });

  test('a socket is named', async () => {
    const directory = mkdtempSync(join(tmpdir(), 'tsvmm-boot-'));
    const name = join(directory, 'socket');
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(name, resolve));
    try {
      expect(refusal(name)).toMatchObject({ code: 'not-a-file', detail: 'the kernel is a socket' });
    } finally {
      await new Promise((resolve) => server.close(resolve));
      rmSync(directory, { recursive: true });
    }
  });

  test('an empty file is empty', () => {
    withFile(Buffer.alloc(0), (path) => {
      expect(refusal(path)).toMatchObject({ code: 'empty', detail: 'the kernel is an empty file' });
    });
  });

  test('a file without read permission is no-permission', () => {
    const error = unreadable('/boot/x', 'initramfs', Object.assign(new Error(), { code: 'EACCES' }));
    expect(error.code).toBe('no-permission');
    expect(error.message).toBe('/boot/x: no permission to read the initramfs; make it readable for this user');
    withFile(Buffer.from('x'), (path) => {
      chmodSync(path, 0);
      // Root reads everything; for everyone else this is the real thing.
      if (process.getuid?.() !== 0) expect(refusal(path).code).toBe('no-permission');
    });
  });

  test('another failure is io, with the errno and the cause', () => {
    const cause = Object.assign(new Error(), { code: 'EIO' });
    const error = unreadable('/boot/x', 'kernel', cause);
    expect(error).toMatchObject({ code: 'io', detail: 'cannot read the kernel (EIO)', cause });
  });

  test('reading stops at the end of the file', () => {
    withFile(Buffer.from('abcdef'), (path) => {
      using file = new BootFile(path, 'kernel');
      expect(file.size).toBe(6);
      expect(Buffer.from(file.read(2, 3)).toString()).toBe('cde');
      expect(Buffer.from(file.read(4, 100)).toString()).toBe('ef');
      expect(file.read(100, 4)).toHaveLength(0);
      writeFileSync(path, 'ab');
      expect(Buffer.from(file.read(0, 6)).toString()).toBe('ab');
    });
  });
});

describe('other formats are named', () => {
  function at(offset: number, bytes: Uint8Array | string, ...more: [number, Uint8Array | string][]): Buffer {
    const head = Buffer.alloc(0x9000);
    for (const [place, content] of [[offset, bytes], ...more] as const) head.set(Buffer.from(content as string), place);
    return head;
  }
  const bootSector: [number, Uint8Array] = [0x1fe, Buffer.from([0x55, 0xaa])];

  test.each<[string, Buffer]>([
    ['an ARM64 Image', at(0, 'MZ', [56, 'ARM\x64'])],
    ['a RISC-V Image', at(56, 'RSC\x05')],
    ['a PE (EFI or Windows) program', at(0, 'MZ', bootSector)],
    ['a gzip file', at(0, Buffer.from([0x1f, 0x8b, 8]))],
    ['an xz file', at(0, Buffer.from([0xfd, 0x37, 0x7a, 0x58, 0x5a, 0]))],
    ['a zstd file', at(0, Buffer.from([0x28, 0xb5, 0x2f, 0xfd]))],
    ['an lz4 file', at(0, Buffer.from([0x04, 0x22, 0x4d, 0x18]))],
    ['an lz4 file', at(0, Buffer.from([0x02, 0x21, 0x4c, 0x18]))],
    ['a bzip2 file', at(0, 'BZh9')],
    ['an lzma file', at(0, Buffer.from([0x5d, 0, 0]))],
    ['an lzop file', at(0, Buffer.from([0x89, 0x4c, 0x5a, 0x4f]))],
    ['a zip file', at(0, 'PK\x03\x04')],
    ['a script', at(0, '#!/bin/sh')],
    ['a cpio archive', at(0, '070701')],
    ['a tar archive', at(257, 'ustar')],
    ['a U-Boot image', at(0, Buffer.from([0x27, 0x05, 0x19, 0x56]))],
    ['an Android boot image', at(0, 'ANDROID!')],
    ['a device tree', at(0, Buffer.from([0xd0, 0x0d, 0xfe, 0xed]))],
    ['a Mach-O program', at(0, Buffer.from([0xcf, 0xfa, 0xed, 0xfe]))],
    ['a qcow2 disk image', at(0, Buffer.from([0x51, 0x46, 0x49, 0xfb]))],
    ['a VMDK disk image', at(0, 'KDMV')],
    ['a VHDX disk image', at(0, 'vhdxfile')],
    ['a VDI disk image', at(0x40, Buffer.from([0x7f, 0x10, 0xda, 0xbe]))],
    ['a squashfs image', at(0, 'hsqs')],
    ['an ext2/3/4 file system image', at(0x438, Buffer.from([0x53, 0xef]))],
    ['an ISO image', at(0x8001, 'CD001', bootSector)],
    ['a raw disk image', at(0x1fe, Buffer.from([0x55, 0xaa]))],
    ['a raw disk image', at(512, 'EFI PART')],
    ['a text file', Buffer.from('console=ttyS0\n')],
    ['of no known format', at(0, Buffer.from([0, 1, 2, 3]))],
    ['of no known format', Buffer.from([0])],
  ])('%s', (name, head) => {
    expect(recogniseFormat(head).name).toBe(name);
  });

  test('the error names file, format and mend', () => {
    withFile(Buffer.from('#!/bin/sh\n'), (path) => {
      using file = new BootFile(path, 'kernel');
      const error = bootErrorOf(() => parseElfKernel(file));
      expect(error.code).toBe('wrong-format');
      expect(error.message).toBe(
        `${path}: the kernel is a script, neither an ELF file nor a bzImage; ` +
          'an uncompressed ELF kernel (vmlinux) or a bzImage is needed',
      );
    });
  });

  test.each([
    ['zcat vmlinux.gz', [0x1f, 0x8b]],
    ['xzcat vmlinux.xz', [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0]],
    ['zstdcat vmlinux.zst', [0x28, 0xb5, 0x2f, 0xfd]],
    ['lz4cat vmlinux.lz4', [0x04, 0x22, 0x4d, 0x18]],
    ['bzcat vmlinux.bz2', [0x42, 0x5a, 0x68]],
    ['lzcat vmlinux.lzma', [0x5d, 0, 0]],
    ['lzop -dc vmlinux.lzo', [0x89, 0x4c, 0x5a, 0x4f]],
  ])('a compressed kernel comes with the command that unpacks it: %s', (command, magic) => {
    const { mend } = recogniseFormat(Buffer.from(magic));
    expect(mend).toBe(`decompress it first: ${command} > vmlinux; if it is the initramfs, name it as such`);
  });
});
