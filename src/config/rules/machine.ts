// Rules for what every machine has: vCPUs, memory, what it boots, the serial port and the console.

import { formatBytes, MIB, PAGE_SIZE } from '../../platform/units.js';
import type { CpusConfig, MemoryConfig, PayloadConfig, SerialConfig } from '../vm-config.js';
import { checkCreatable, checkReadableFile } from './files.js';
import type { Complain } from './rule.js';

/** APIC ids of one byte, less that of the IOAPIC and the one that means all. */
const MAX_VCPUS = 254;
/** x86-64 guest-physical addresses have at most 52 bits. Whether the host can map that much is found out when it does. */
const MAX_MEMORY = 2 ** 52;

export function checkCpus(cpus: CpusConfig, complain: Complain): void {
  for (const [field, count] of [
    ['cpus.boot_vcpus', cpus.boot_vcpus],
    ['cpus.max_vcpus', cpus.max_vcpus],
  ] as const) {
    if (!Number.isInteger(count) || count < 1) {
      complain(field, count, {
        code: 'OUT_OF_RANGE',
        problem: `${count} is not a number of vCPUs`,
        mend: 'Use 1.',
      });
    }
    if (count > MAX_VCPUS) {
      complain(field, count, {
        code: 'OUT_OF_RANGE',
        problem: `${count} vCPUs are more than the ${MAX_VCPUS} that a guest's tables have room for`,
        mend: 'Ask for fewer.',
      });
    }
  }
}

export function checkMemory({ size }: MemoryConfig, complain: Complain): void {
  if (!Number.isFinite(size) || size > MAX_MEMORY) {
    complain('memory.size', size, {
      code: 'OUT_OF_RANGE',
      problem: `${size} bytes are more than any guest can address`,
      mend: `Use less than the host has, for instance ${512 * MIB} (512M).`,
    });
  }
  if (size <= 0) {
    complain('memory.size', size, {
      code: 'OUT_OF_RANGE',
      problem: size === 0 ? 'a guest without memory cannot run' : `${size} is negative`,
      mend: `Use for instance ${512 * MIB} (512M).`,
    });
  }
  if (size % PAGE_SIZE !== 0) {
    const below = Math.floor(size / PAGE_SIZE) * PAGE_SIZE;
    const above = below + PAGE_SIZE;
    complain('memory.size', size, {
      code: 'OUT_OF_RANGE',
      problem: `${size} bytes (${formatBytes(size)}) are not a multiple of the page size, ${PAGE_SIZE}`,
      mend: `Use ${below === 0 ? '' : `${below} or `}${above}.`,
    });
  }
}

export function checkPayload(payload: PayloadConfig, complain: Complain): void {
  const { kernel, initramfs, cmdline } = payload;
  if (kernel !== undefined) checkReadableFile(complain, 'payload.kernel', kernel);
  if (initramfs !== undefined) {
    if (kernel === undefined) {
      complain('payload.initramfs', initramfs, {
        code: 'CONFLICT',
        problem: 'an initramfs needs a kernel, and the guest built into tsvmm takes none',
        mend: 'Name a kernel as well, or leave the initramfs out.',
      });
    }
    checkReadableFile(complain, 'payload.initramfs', initramfs);
  }
  if (cmdline?.includes('\0') === true) {
    complain('payload.cmdline', cmdline, {
      code: 'WRONG_TYPE',
      problem: 'the command line holds a NUL byte, where the kernel would stop reading',
      mend: 'Take it out.',
    });
  }
}

export function checkSerial({ mode, file }: SerialConfig, complain: Complain): void {
  if (mode === 'File') {
    if (file === undefined) {
      complain('serial.file', file, {
        code: 'MISSING_KEY',
        problem: 'mode File needs a file',
        mend: 'Name the file that the output goes to.',
      });
    }
    checkCreatable(complain, 'serial.file', file);
  } else if (file !== undefined) {
    complain('serial.file', file, {
      code: 'CONFLICT',
      problem: `mode ${mode} writes no file`,
      mend: 'Use mode File, or leave the file out.',
    });
  }
}
