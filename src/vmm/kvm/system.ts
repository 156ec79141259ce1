// /dev/kvm itself: opening it with errors a newcomer can act on, API version, capabilities. Main thread.

import { EACCES, ENOENT, EPERM, SysError } from '../../platform/errno.js';
import { check, close, libc, O_RDWR, open, orErrno } from '../../platform/libc.js';
import { NativeBuffer } from '../../platform/native-buffer.js';
import type { Fd } from '../../platform/units.js';
import { VmError } from '../errors.js';
import {
  CPUID2_HEADER_SIZE,
  CPUID_ENTRY,
  KVM_API_VERSION,
  KVM_CAP_TSC_DEADLINE_TIMER,
  KVM_CHECK_EXTENSION,
  KVM_CREATE_VM,
  KVM_GET_API_VERSION,
  KVM_GET_MSR_INDEX_LIST,
  KVM_GET_SUPPORTED_CPUID,
  KVM_GET_VCPU_MMAP_SIZE,
  REQUIRED_CAPABILITIES,
} from './abi.js';

export const KVM_DEVICE = '/dev/kvm';

/** One CPUID leaf: struct kvm_cpuid_entry2. */
export interface CpuidEntry {
  readonly function: number;
  readonly index: number;
  readonly flags: number;
  readonly eax: number;
  readonly ebx: number;
  readonly ecx: number;
  readonly edx: number;
}

/** More entries than any known host reports. */
const MAX_CPUID_ENTRIES = 256;
/** Likewise. */
const MAX_MSRS = 1024;

/** An open /dev/kvm whose version and capabilities are good enough. `close` releases it. */
export class KvmSystem {
  readonly fd: Fd;
  /** Bytes of the kvm_run mapping of a vCPU. */
  readonly vcpuMmapSize: number;
  readonly tscDeadlineTimer: boolean;

  private constructor(fd: Fd) {
    this.fd = fd;
    const version = libc.ioctl(fd, KVM_GET_API_VERSION, 0);
    if (version !== KVM_API_VERSION) {
      throw new VmError(
        'KVM_CAPABILITY',
        `${KVM_DEVICE} speaks KVM API version ${version}, and only version ${KVM_API_VERSION} is known`,
        'check that it is the real KVM device of a Linux kernel 4.12 or newer',
      );
    }
    const missing = Object.entries(REQUIRED_CAPABILITIES).filter(([, number]) => !this.hasCapability(number));
    if (missing.length > 0) {
      throw new VmError(
        'KVM_CAPABILITY',
        `KVM on this host lacks ${missing.map(([name]) => name).join(', ')}`,
        'use a newer kernel with the full x86 KVM (in-kernel irqchip included)',
      );
    }
    this.vcpuMmapSize = check(libc.ioctl(fd, KVM_GET_VCPU_MMAP_SIZE, 0), 'ioctl KVM_GET_VCPU_MMAP_SIZE');
    this.tscDeadlineTimer = this.hasCapability(KVM_CAP_TSC_DEADLINE_TIMER);
  }

  /** Opens `path` (/dev/kvm). Throws VmError: KVM_NOT_FOUND, KVM_PERMISSION or KVM_CAPABILITY, each with the mend. */
  static open(path = KVM_DEVICE): KvmSystem {
    let fd: Fd;
    try {
      fd = open(path, O_RDWR);
    } catch (error) {
      throw explainOpenFailure(path, error);
    }
    try {
      return new KvmSystem(fd);
    } catch (error) {
      close(fd);
      throw error;
    }
  }

  hasCapability(number: number): boolean {
    return this.capability(number) > 0;
  }

  /** What KVM_CHECK_EXTENSION says: 0 for what is not there, else 1 or a number that depends on the capability. */
  capability(number: number): number {
    return libc.ioctl(this.fd, KVM_CHECK_EXTENSION, number);
  }

  /** Every CPUID leaf that KVM can give a guest on this host. Throws SysError. */
  supportedCpuid(): CpuidEntry[] {
    const buffer = new NativeBuffer(CPUID2_HEADER_SIZE + MAX_CPUID_ENTRIES * CPUID_ENTRY.SIZE);
    buffer.setU32(0, MAX_CPUID_ENTRIES);
    check(libc.ioctl(this.fd, KVM_GET_SUPPORTED_CPUID, buffer.address), 'ioctl KVM_GET_SUPPORTED_CPUID');
    const count = buffer.u32(0);
    return Array.from({ length: count }, (_, position) => {
      const at = CPUID2_HEADER_SIZE + position * CPUID_ENTRY.SIZE;
      return {
        function: buffer.u32(at + CPUID_ENTRY.FUNCTION),
        index: buffer.u32(at + CPUID_ENTRY.INDEX),
        flags: buffer.u32(at + CPUID_ENTRY.FLAGS),
        eax: buffer.u32(at + CPUID_ENTRY.EAX),
        ebx: buffer.u32(at + CPUID_ENTRY.EBX),
        ecx: buffer.u32(at + CPUID_ENTRY.ECX),
        edx: buffer.u32(at + CPUID_ENTRY.EDX),
      };
    });
  }

  /** The model-specific registers that KVM can save and restore on this host. Throws SysError. */
  msrIndices(): number[] {
    // struct kvm_msr_list { u32 nmsrs; u32 indices[]; }
    const buffer = new NativeBuffer(4 + MAX_MSRS * 4);
    buffer.setU32(0, MAX_MSRS);
    check(libc.ioctl(this.fd, KVM_GET_MSR_INDEX_LIST, buffer.address), 'ioctl KVM_GET_MSR_INDEX_LIST');
    return Array.from({ length: buffer.u32(0) }, (_, position) => buffer.u32(4 + position * 4));
  }

  /** Makes an empty VM and returns its descriptor, which the caller owns. Throws VmError. */
  createVm(): Fd {
    const fd = orErrno(libc.ioctl(this.fd, KVM_CREATE_VM, 0));
    if (fd < 0) {
      throw new VmError(
        'KVM_CAPABILITY',
        'KVM did not create a VM',
        'see `dmesg`: virtualization may be switched off in the firmware, or in use by another hypervisor',
        new SysError('ioctl KVM_CREATE_VM', -fd),
      );
    }
    return fd as Fd;
  }

  close(): void {
    close(this.fd);
  }
}

function explainOpenFailure(path: string, error: unknown): unknown {
  if (!(error instanceof SysError)) return error;
  switch (error.errno) {
    case ENOENT:
      return new VmError(
        'KVM_NOT_FOUND',
        `${path} does not exist`,
        'load the KVM module (`modprobe kvm_intel` or `modprobe kvm_amd`) on a host with hardware virtualization ' +
          'switched on, or, inside a VM, switch on nested virtualization; in a container, pass the device through',
        error,
      );
    case EACCES:
    case EPERM:
      return new VmError(
        'KVM_PERMISSION',
        `no permission to open ${path}`,
        'add yourself to its group (usually `sudo usermod -aG kvm $USER`, then log in again)',
        error,
      );
    default:
      return new VmError(
        'KVM_CAPABILITY',
        `${path} cannot be opened (${error.code})`,
        'see `dmesg` for the reason',
        error,
      );
  }
}
