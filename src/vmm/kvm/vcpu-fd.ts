// A vCPU's file descriptor and its kvm_run page. Created and used by the vCPU's own worker thread only.

import { check, close, libc, orErrno, viewMemory } from '../../platform/libc.js';
import { mapShared, unmap } from '../../platform/mapping.js';
import { NativeBuffer } from '../../platform/native-buffer.js';
import type { Fd, HostAddress } from '../../platform/units.js';
import {
  CPUID2_HEADER_SIZE,
  CPUID_ENTRY,
  KVM_CREATE_VCPU,
  KVM_GET_MSRS,
  KVM_GET_TSC_KHZ,
  KVM_KVMCLOCK_CTRL,
  KVM_RUN,
  KVM_SET_CPUID2,
  KVM_SET_MSRS,
  KVM_SET_TSC_KHZ,
  MSR_ENTRY,
  MSRS_HEADER_SIZE,
} from './abi.js';
import type { CpuidEntry } from './system.js';

/** One model-specific register to set. */
export interface MsrValue {
  readonly index: number;
  readonly data: bigint;
}

/** One vCPU. Every method throws SysError unless it says otherwise. */
export class KvmVcpu {
  /** struct kvm_run, live. */
  readonly run: ArrayBuffer;
  private readonly fd: Fd;
  readonly runAddress: HostAddress;
  private readonly runSize: number;

  constructor(vmFd: Fd, id: number, mmapSize: number) {
    this.fd = check(libc.ioctl(vmFd, KVM_CREATE_VCPU, id), 'ioctl KVM_CREATE_VCPU') as Fd;
    try {
      this.runAddress = mapShared(this.fd, mmapSize);
    } catch (error) {
      close(this.fd);
      throw error;
    }
    this.runSize = mmapSize;
    this.run = viewMemory(this.runAddress, mmapSize);
  }

  /** Runs the guest until its next exit: 0, or the negative errno (EINTR when kicked). Throws nothing. */
  enter(): number {
    return orErrno(libc.ioctlInt(this.fd, KVM_RUN, 0));
  }

  setCpuid(entries: readonly CpuidEntry[]): void {
    const buffer = new NativeBuffer(CPUID2_HEADER_SIZE + entries.length * CPUID_ENTRY.SIZE);
    buffer.setU32(0, entries.length);
    entries.forEach((entry, position) => {
      const at = CPUID2_HEADER_SIZE + position * CPUID_ENTRY.SIZE;
      buffer.setU32(at + CPUID_ENTRY.FUNCTION, entry.function);
      buffer.setU32(at + CPUID_ENTRY.INDEX, entry.index);
      buffer.setU32(at + CPUID_ENTRY.FLAGS, entry.flags);
      buffer.setU32(at + CPUID_ENTRY.EAX, entry.eax);
      buffer.setU32(at + CPUID_ENTRY.EBX, entry.ebx);
      buffer.setU32(at + CPUID_ENTRY.ECX, entry.ecx);
      buffer.setU32(at + CPUID_ENTRY.EDX, entry.edx);
    });
    check(libc.ioctl(this.fd, KVM_SET_CPUID2, buffer.address), 'ioctl KVM_SET_CPUID2');
  }

  /** Sets all of `msrs`; returns the first one that KVM refuses, if any. */
  setMsrs(msrs: readonly MsrValue[]): MsrValue | undefined {
    const buffer = new NativeBuffer(MSRS_HEADER_SIZE + msrs.length * MSR_ENTRY.SIZE);
    buffer.setU32(0, msrs.length);
    msrs.forEach((msr, position) => {
      const at = MSRS_HEADER_SIZE + position * MSR_ENTRY.SIZE;
      buffer.setU32(at + MSR_ENTRY.INDEX, msr.index);
      buffer.setU64(at + MSR_ENTRY.DATA, msr.data);
    });
    const set = check(libc.ioctl(this.fd, KVM_SET_MSRS, buffer.address), 'ioctl KVM_SET_MSRS');
    return msrs[set];
  }

  /** The values of those of `indices` that KVM lets be read. */
  getMsrs(indices: readonly number[]): MsrValue[] {
    const values: MsrValue[] = [];
    for (let done = 0; done < indices.length;) {
      const rest = indices.slice(done);
      const buffer = new NativeBuffer(MSRS_HEADER_SIZE + rest.length * MSR_ENTRY.SIZE);
      buffer.setU32(0, rest.length);
      rest.forEach((index, position) => {
        buffer.setU32(MSRS_HEADER_SIZE + position * MSR_ENTRY.SIZE + MSR_ENTRY.INDEX, index);
      });
      const count = check(libc.ioctl(this.fd, KVM_GET_MSRS, buffer.address), 'ioctl KVM_GET_MSRS');
      for (let position = 0; position < count; position++) {
        const at = MSRS_HEADER_SIZE + position * MSR_ENTRY.SIZE;
        values.push({ index: rest[position], data: buffer.u64(at + MSR_ENTRY.DATA) });
      }
      // It stops at the first one that cannot be read: on behind that.
      done += count + 1;
    }
    return values;
  }

  /** Frequency of the guest's time stamp counter; 0 when KVM does not say. Throws nothing. */
  tscKhz(): number {
    return Math.max(0, libc.ioctl(this.fd, KVM_GET_TSC_KHZ, 0));
  }

  /** Another frequency than the host's needs hardware for it; one that is near enough does not. */
  setTscKhz(khz: number): void {
    if (this.tscKhz() !== khz) check(libc.ioctl(this.fd, KVM_SET_TSC_KHZ, khz), `ioctl KVM_SET_TSC_KHZ ${khz}`);
  }

  /** Tells the guest that it was stopped for a while, so that its watchdogs do not bark. Throws nothing: not all have kvmclock. */
  notePause(): void {
    libc.ioctl(this.fd, KVM_KVMCLOCK_CTRL, 0);
  }

  /** An ioctl that fills a structure of `size` bytes. */
  get(request: number, size: number, name: string): NativeBuffer {
    const buffer = new NativeBuffer(size);
    check(libc.ioctl(this.fd, request, buffer.address), `ioctl ${name}`);
    return buffer;
  }

  /** An ioctl that takes a structure. */
  set(request: number, buffer: NativeBuffer, name: string): void {
    check(libc.ioctl(this.fd, request, buffer.address), `ioctl ${name}`);
  }

  /** `run` must not be touched afterwards. */
  close(): void {
    unmap(this.runAddress, this.runSize);
    close(this.fd);
  }
}
