import { writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';

import { kernelRelease } from '../../src/boot/bzimage.js';
import { BootError } from '../../src/boot/errors.js';
import { BootFile } from '../../src/boot/file.js';
import { loadGuest, type GuestToLoad } from '../../src/boot/load.js';
import type { BootState } from '../../src/boot/state.js';
import { GIB, KIB, MIB } from '../../src/platform/units.js';
import { bootErrorOf, buildBzImage, FakeMemory, withDirectory, type BzImageSpec } from './support.js';

function load(
  memory: FakeMemory,
  image: BzImageSpec | Uint8Array = {},
  guest: Partial<GuestToLoad> & { initramfsBytes?: Uint8Array } = {},
): BootState {
  return withDirectory((directory) => {
    const kernel = join(directory, 'bzImage');
    writeFileSync(kernel, image instanceof Uint8Array ? image : buildBzImage(image));
    const { initramfsBytes, ...rest } = guest;
    const initramfs = initramfsBytes === undefined ? undefined : join(directory, 'initrd');
    if (initramfs !== undefined) writeFileSync(initramfs, initramfsBytes ?? '');
    return loadGuest(memory, { kernel, initramfs, cmdline: '', cpus: 1, ...rest });
  });
}

function refusal(image: BzImageSpec | Uint8Array, memorySize = 64 * MIB): BootError {
  return bootErrorOf(() => load(new FakeMemory(memorySize), image));
}

describe('a bzImage', () => {
  test('is entered by the 64-bit protocol, 0x200 into the code, which lies at the preferred address', () => {
    const memory = new FakeMemory(64 * MIB);
    const state = load(memory);
    expect(state).toMatchObject({
      protocol: 'linux64',
      entry: 0x100_0200,
      registers: { rip: 0x100_0200, rsi: 0x7000 },
      placement: { kernel: { start: 0x100_0000, end: 0x110_0000 } },
    });
    expect(memory.read(0x100_0000, 20).toString()).toBe('protected-mode code ');
    expect(memory.read(0x100_0000 + 4096, 4).readUInt32LE()).toBe(0);
  });

  test('the zero page has its setup header, up to its end, and what the boot loader must set', () => {
    const image = buildBzImage({ headerLength: 0x6a });
    image.writeUInt32LE(0x1234_5678, 0x268); // kernel_info_offset, the last field of protocol 2.15
    image.writeUInt32LE(0x9abc_def0, 0x26c); // no longer the header
    const memory = new FakeMemory(64 * MIB);
    load(memory, image, { cmdline: 'quiet', initramfsBytes: Buffer.from('ramdisk') });
    const page = memory.read(0x7000, 4096);
    const expected = Buffer.alloc(0x26c - 0x1f1);
    image.copy(expected, 0, 0x1f1, 0x26c);
    expected.writeUInt8(0xff, 0x210 - 0x1f1);
    expected.writeUInt32LE(64 * MIB - 4096, 0x218 - 0x1f1);
    expected.writeUInt32LE(7, 0x21c - 0x1f1);
    expected.writeUInt32LE(0x2_0000, 0x228 - 0x1f1);
    expect(page.subarray(0x1f1, 0x26c)).toEqual(expected);
    expect(page.readUInt32LE(0x26c)).toBe(0);
    // Nothing before but the number of e820 entries: above all the sentinel at 0x1ef stays 0.
    expect(page[0x1e8]).toBe(3);
    page[0x1e8] = 0;
    expect(page.subarray(0, 0x1f1).every((byte) => byte === 0)).toBe(true);
  });

  test('setup_sects of 0 means 4, and what follows syssize is not loaded', () => {
    const image = Buffer.concat([buildBzImage({ setupSects: 0 }), Buffer.alloc(64, 'signature')]);
    const memory = new FakeMemory(64 * MIB);
    load(memory, image);
    expect(memory.read(0x100_0000, 20).toString()).toBe('protected-mode code ');
    expect(memory.read(0x100_0000 + 4096, 8)).toEqual(Buffer.alloc(8));
  });

  test('a relocatable kernel that would like to lie below 1 MiB goes to the next multiple of its alignment', () => {
    for (const prefAddress of [0n, 0x8_0000n]) {
      expect(load(new FakeMemory(64 * MIB), { prefAddress }).entry).toBe(0x20_0200);
    }
    const error = refusal({ prefAddress: 0x8_0000n, relocatable: false });
    expect(error.code).toBe('bad-placement');
    expect(error.detail).toBe('the kernel runs at 0x80000 only, below 1 MiB, where boot data is');
  });

  test('it needs init_size bytes of memory from there, and at least its own size', () => {
    const initSize = 20 * MIB;
    expect(load(new FakeMemory(36 * MIB), { initSize }).placement.kernel.end).toBe(36 * MIB);
    const error = refusal({ initSize }, 36 * MIB - 4096);
    expect(error.code).toBe('memory-too-small');
    expect(error.detail).toBe('the kernel needs memory up to 0x2400000 (36 MiB), the guest has 36 MiB');
    expect(load(new FakeMemory(64 * MIB), { initSize: 0 }).placement.kernel.end).toBe(0x100_1000);
  });

  test('a kernel that the page tables do not reach at entry is refused', () => {
    const error = bootErrorOf(() => load(new FakeMemory(8 * GIB), { prefAddress: 0x3ff0_1000n }));
    expect(error.code).toBe('bad-placement');
    expect(error.detail).toBe(
      'the kernel wants 0x40000000 to 0x40100000 (1 MiB), and only the first GiB is mapped at entry',
    );
  });

  test('the initramfs stays below initrd_addr_max and clear of init_size', () => {
    const memory = new FakeMemory(2 * GIB);
    const low = { initrdAddrMax: 0x37ff_ffff, xloadflags: 0x1 };
    const initramfsBytes = Buffer.alloc(5000, 'i');
    expect(load(memory, low, { initramfsBytes }).placement.initramfs).toEqual({ gpa: 0x37ff_e000, size: 5000 });
    const anywhere = { ...low, xloadflags: 0x3 };
    expect(load(memory, anywhere, { initramfsBytes }).placement.initramfs?.gpa).toBe(2 * GIB - 8192);
    const atOneMiB = { prefAddress: 0x10_0000n, kernelAlignment: 0x10_0000 };
    const full = { ...atOneMiB, initrdAddrMax: 0x110_0fff, xloadflags: 0x1, initSize: 16 * MIB };
    expect(bootErrorOf(() => load(memory, full, { initramfsBytes })).code).toBe('initramfs-too-large');
    const snug = { ...full, initSize: 16 * MIB - 4096 };
    expect(load(memory, snug, { initramfsBytes }).placement.initramfs?.gpa).toBe(0x10f_f000);
  });

  test('its command line may be as long as it says, less or more than 2047 bytes', () => {
    const memory = new FakeMemory(64 * MIB);
    const cmdline = 'x'.repeat(4000);
    load(memory, { cmdlineSize: 4000 }, { cmdline });
    expect(memory.read(0x2_0000, 4001).toString('latin1')).toBe(`${cmdline}\0`);
    const error = bootErrorOf(() => load(memory, { cmdlineSize: 255 }, { cmdline: 'x'.repeat(256) }));
    expect(error.code).toBe('cmdline-too-long');
    expect(error.detail).toContain('256 bytes long, and this kernel takes 255 at most');
    // Whatever the header says, there are 64 KiB.
    const most = { cmdlineSize: 0xffff_ffff };
    load(memory, most, { cmdline: 'x'.repeat(64 * KIB - 1) });
    expect(bootErrorOf(() => load(memory, most, { cmdline: 'x'.repeat(64 * KIB) })).code).toBe('cmdline-too-long');
  });
});

describe('a bzImage is refused', () => {
  test.each<[string, BzImageSpec, string, string]>([
    [
      'of protocol 2.11',
      { version: 0x20b },
      'old-protocol',
      'a bzImage of boot protocol 2.11; 2.12 or later is needed',
    ],
    ['of protocol 2.02', { version: 0x202 }, 'old-protocol', 'a bzImage of boot protocol 2.02;'],
    ['of 32 bits', { xloadflags: 0 }, 'wrong-machine', 'without a 64-bit entry point: a 32-bit kernel; a kernel built'],
    ['with a header too short', { headerLength: 0x61 }, 'bad-bzimage', 'its setup header is shorter'],
    ['with an odd alignment', { kernelAlignment: 0x30_0000 }, 'bad-bzimage', 'kernel_alignment is 0x300000, which is'],
    ['with no alignment', { kernelAlignment: 0 }, 'bad-bzimage', 'kernel_alignment is 0x0'],
    ['that prefers an impossible place', { prefAddress: 1n << 52n }, 'bad-bzimage', 'beyond 52 bits'],
    ['without code', { syssize: 0 }, 'bad-bzimage', 'its kernel has 0 bytes, too few for an entry point'],
    ['with code that ends before the entry', { syssize: 32 }, 'bad-bzimage', 'its kernel has 512 bytes'],
    ['cut short', { syssize: 257 }, 'truncated', 'the file has 5120 bytes, but as a bzImage it reaches to byte 5136'],
  ])('%s', (_name, image, code, words) => {
    const error = refusal(image);
    expect(error.code).toBe(code);
    expect(error.message).toContain(words);
    expect(error.path).toMatch(/bzImage$/);
  });

  test('that ends within its header', () => {
    expect(refusal(buildBzImage().subarray(0, 0x28f)).code).toBe('truncated');
  });

  test('where PVH is asked for', () => {
    const error = bootErrorOf(() => load(new FakeMemory(64 * MIB), {}, { protocol: 'pvh' }));
    expect(error.code).toBe('not-a-kernel');
    expect(error.message).toContain('a bzImage has no PVH entry point; use the 64-bit Linux protocol');
  });

  test('before anything is written', () => {
    const memory = new FakeMemory(8 * MIB);
    expect(bootErrorOf(() => load(memory)).code).toBe('memory-too-small');
    expect(memory.writes).toEqual([]);
  });
});

describe('a hostile bzImage', () => {
  const valid = buildBzImage();

  test('with any bytes of its header changed is loaded or refused, and nothing is written outside RAM', () => {
    const mutation = fc.record({
      offset: fc.integer({ min: 0x1f1, max: 0x28f }),
      bytes: fc.oneof(
        fc.uint8Array({ minLength: 1, maxLength: 8 }),
        fc.constantFrom(new Uint8Array(4), new Uint8Array(8).fill(0xff), new Uint8Array(4).fill(0xff)),
      ),
    });
    fc.assert(
      fc.property(fc.array(mutation, { minLength: 1, maxLength: 4 }), fc.nat(valid.length), (mutations, cut) => {
        const file = Buffer.from(valid);
        for (const { offset, bytes } of mutations) file.set(bytes, offset);
        for (const content of [file, file.subarray(0, cut)]) {
          try {
            load(new FakeMemory(32 * MIB), content, { cmdline: 'quiet', initramfsBytes: Buffer.from('ramdisk') });
          } catch (error) {
            // An access outside RAM would be an OutsideRam, and end the property here. An empty file is refused, too.
            if (!(error instanceof BootError)) throw error;
          }
        }
      }),
      { numRuns: 400 },
    );
  });
});

describe('the release of a kernel', () => {
  function releaseOf(bytes: Uint8Array): string | undefined {
    return withDirectory((directory) => {
      const path = join(directory, 'kernel');
      writeFileSync(path, bytes);
      using file = new BootFile(path, 'kernel');
      return kernelRelease(file);
    });
  }

  test.each([
    ['6.1.0-18-amd64 (debian-kernel@lists.debian.org) #1 SMP', '6.1.0-18-amd64'],
    ['6.8.9-300.fc40.x86_64 (mock@bkernel) #1', '6.8.9-300.fc40.x86_64'],
    ['7.0-rc1+', '7.0-rc1+'],
    ['6.1/../../etc (x)', undefined],
    ['../../6.1 (x)', undefined],
    ['', undefined],
    [`6.${'1'.repeat(500)}`, undefined],
  ])('%j is %j', (kernelVersion, release) => {
    expect(releaseOf(buildBzImage({ kernelVersion }))).toBe(release);
  });

  test('is nothing where the pointer leads nowhere, and in what is no bzImage', () => {
    const image = buildBzImage({ kernelVersion: '6.1.0 (x)' });
    image.writeUInt16LE(0xffff, 0x20e);
    expect(releaseOf(image)).toBeUndefined();
    expect(releaseOf(buildBzImage())).toBeUndefined();
    expect(releaseOf(Buffer.from('6.1.0'))).toBeUndefined();
    expect(releaseOf(Buffer.alloc(4096))).toBeUndefined();
  });
});
