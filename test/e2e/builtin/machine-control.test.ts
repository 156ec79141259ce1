// What the host does to a machine from outside: reset it, interrupt it, dump it.

import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { MIB } from '../../../src/platform/units.js';
import { Vm } from '../../../src/vmm/vm.js';
import { describeKvm } from '../../support/kvm.js';
import { CODE, CODE_ADDRESS, writeKernel } from '../../support/tiny-kernel.js';
import { testConfig, withVm } from '../../support/vms.js';

let directory = '';
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'tsvmm-control-'));
});
afterEach(() => {
  rmSync(directory, { recursive: true });
});

const BANNER = /tsvmm guest [^]*> $/;

/** Halts with interrupts off, and powers off at an NMI. */
function nmiKernel(): number[] {
  const HANDLER = 0x20;
  const IDTR = 0x40;
  const IDT = 0x80;
  const code = new Uint8Array(IDT + 3 * 16);
  const view = new DataView(code.buffer);
  // mov $0x110000, %esp; lidt IDTR(%rip); 1: hlt; jmp 1b
  code.set([0xbc, 0x00, 0x00, 0x11, 0x00, 0x0f, 0x01, 0x1d, IDTR - 12, 0x00, 0x00, 0x00, ...CODE.halt]);
  code.set(CODE.powerOff, HANDLER);
  view.setUint16(IDTR, 3 * 16 - 1, true);
  view.setBigUint64(IDTR + 2, BigInt(CODE_ADDRESS + IDT), true);
  // Vector 2, an interrupt gate into the boot protocol's code segment.
  const gate = IDT + 2 * 16;
  view.setUint16(gate, (CODE_ADDRESS + HANDLER) & 0xffff, true);
  view.setUint16(gate + 2, 0x10, true);
  view.setUint8(gate + 5, 0x8e);
  view.setUint16(gate + 6, CODE_ADDRESS >>> 16, true);
  return [...code];
}

describeKvm('reboot()', () => {
  test('starts the guest again, though no_reboot is set: that is about the guest', async () => {
    await withVm(testConfig({ no_reboot: true }), async (vm, console) => {
      await console.waitFor(BANNER);
      const from = console.text.length;
      await vm.reboot();
      await console.waitFor(BANNER, undefined, from);
    });
  });

  test('lets a paused guest run again, from its beginning', async () => {
    await withVm(testConfig(), async (vm, console) => {
      await console.waitFor(BANNER);
      await vm.pause();
      const from = console.text.length;
      await vm.reboot();
      await console.waitFor(BANNER, undefined, from);
      await vm.pause();
      await vm.resume();
    });
  });

  test('is refused before the start and after the end', async () => {
    const vm = await Vm.create(testConfig());
    await expect(vm.reboot()).rejects.toMatchObject({ code: 'NOT_RUNNING' });
    await vm.stop();
    await expect(vm.reboot()).rejects.toMatchObject({ code: 'NOT_RUNNING' });
  });
});

describeKvm('nmi()', () => {
  test('interrupts a guest that has its interrupts off', async () => {
    const kernel = writeKernel(directory, nmiKernel());
    await withVm(testConfig({ payload: { kernel } }), async (vm) => {
      // Until the guest has loaded its table, an NMI is a triple fault.
      await halted(vm);
      vm.nmi();
      expect(await vm.exited).toEqual({ reason: 'shutdown' });
    });
  });

  test('reaches a paused guest when it goes on', async () => {
    const kernel = writeKernel(directory, nmiKernel());
    await withVm(testConfig({ payload: { kernel } }), async (vm) => {
      await halted(vm);
      await vm.pause();
      vm.nmi();
      await vm.resume();
      expect(await vm.exited).toEqual({ reason: 'shutdown' });
    });
  });

  test('is refused before the start', async () => {
    const vm = await Vm.create(testConfig());
    expect(() => {
      vm.nmi();
    }).toThrow(expect.objectContaining({ code: 'NOT_RUNNING' }));
    await vm.stop();
  });
});

/** Resolves when the guest is past its set-up: its instruction pointer is at the loop. */
async function halted(vm: Vm): Promise<void> {
  for (let attempt = 0; ; attempt++) {
    const path = join(directory, `look-${attempt}`);
    await vm.coredump(path);
    const { rip } = registers(readFileSync(path));
    if (rip >= BigInt(CODE_ADDRESS + 12)) return;
  }
}

interface Registers {
  readonly rip: bigint;
  readonly cs: bigint;
  readonly cr3: bigint;
}

/** Of the first vCPU, as its notes have them. */
function registers(core: Buffer): Registers {
  const notes = Number(core.readBigUInt64LE(64 + 8));
  const descriptor = notes + 12 + 8;
  const qemu = descriptor + 336 + 12 + 8;
  return {
    rip: core.readBigUInt64LE(descriptor + 112 + 16 * 8),
    cs: core.readBigUInt64LE(descriptor + 112 + 17 * 8),
    cr3: core.readBigUInt64LE(qemu + 392 + 3 * 8),
  };
}

describeKvm('coredump()', () => {
  test('writes memory and registers as an ELF core, sparse, and the guest goes on', async () => {
    const kernel = writeKernel(directory, CODE.spin);
    const path = join(directory, 'core');
    await withVm(testConfig({ payload: { kernel }, cpus: { boot_vcpus: 2, max_vcpus: 2 } }), async (vm) => {
      await vm.coredump(path);
      expect(await Promise.race([vm.exited, Promise.resolve('runs')])).toBe('runs');
      const core = readFileSync(path);
      expect(registers(core)).toMatchObject({ rip: BigInt(CODE_ADDRESS), cs: 0x10n });
      const load = 64 + 56;
      const offset = Number(core.readBigUInt64LE(load + 8));
      expect(core.readBigUInt64LE(load + 24)).toBe(0n);
      expect(core.readBigUInt64LE(load + 32)).toBe(BigInt(64 * MIB));
      expect([...core.subarray(offset + CODE_ADDRESS, offset + CODE_ADDRESS + 2)]).toEqual(CODE.spin);
      const { size, blocks, mode } = statSync(path);
      expect(size).toBe(offset + 64 * MIB);
      expect(blocks * 512).toBeLessThan(16 * MIB);
      expect(mode & 0o777).toBe(0o600);
      const notes = execFileSync('readelf', ['-n', path]).toString();
      expect(notes.match(/NT_PRSTATUS/g)).toHaveLength(2);
      expect(notes.match(/QEMU +0x000001b8/g)).toHaveLength(2);
    });
  });

  test('a paused guest stays paused', async () => {
    await withVm(testConfig(), async (vm, console) => {
      await console.waitFor(BANNER);
      await vm.pause();
      await vm.coredump(join(directory, 'core'));
      expect(() => {
        vm.powerButton();
      }).toThrow(expect.objectContaining({ code: 'NOT_RUNNING' }));
    });
  });

  test('replaces no file, and leaves none behind that is not whole', async () => {
    await withVm(testConfig(), async (vm) => {
      const path = join(directory, 'core');
      await vm.coredump(path);
      await expect(vm.coredump(path)).rejects.toThrow(/EEXIST/);
      await expect(vm.coredump(join(directory, 'nowhere', 'core'))).rejects.toMatchObject({ code: 'CORE_DUMP' });
      expect(readdirSync(directory)).toEqual(['core']);
      expect(existsSync(path)).toBe(true);
    });
  });
});
