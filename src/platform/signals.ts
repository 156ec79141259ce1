// Per-thread signal masks: how a vCPU thread is taken out of KVM_RUN without any C code.
//
// The kick signal is blocked in the vCPU thread for good and unblocked by the kernel only while KVM_RUN runs
// (KVM_SET_SIGNAL_MASK). Sent at any moment it therefore either ends KVM_RUN at once or stays pending and ends the
// next one: no kick is lost. It is collected with sigtimedwait, never delivered, so it needs no handler.

import { libc, lastErrno } from './libc.js';
import { EAGAIN, EINTR, SysError } from './errno.js';
import { NativeBuffer } from './native-buffer.js';

/** A real-time signal well above those that glibc and Node keep for themselves (SIGRTMIN is 34 in user space). */
export const KICK_SIGNAL = 44;

/** The kernel's sigset_t has 64 bits; glibc's has 1024, of which the kernel looks at the first 64. */
const KERNEL_SIGSET_SIZE = 8;
const LIBC_SIGSET_SIZE = 128;
const SIG_BLOCK = 0;

function signalSet(signal: number): NativeBuffer {
  const set = new NativeBuffer(LIBC_SIGSET_SIZE);
  set.setU64(0, 1n << BigInt(signal - 1));
  return set;
}

/** Blocks `signal` in the calling thread. Throws SysError. */
export function blockSignal(signal: number): void {
  const result = libc.pthread_sigmask(SIG_BLOCK, signalSet(signal).address, 0);
  if (result !== 0) throw new SysError('pthread_sigmask', result);
}

/** The calling thread's signal mask without `signal`, as the kernel's 8-byte set. Throws SysError. */
export function currentMaskWithout(signal: number): Uint8Array {
  const mask = new NativeBuffer(LIBC_SIGSET_SIZE);
  const result = libc.pthread_sigmask(SIG_BLOCK, 0, mask.address);
  if (result !== 0) throw new SysError('pthread_sigmask', result);
  mask.setU64(0, mask.u64(0) & ~(1n << BigInt(signal - 1)));
  return mask.bytes.slice(0, KERNEL_SIGSET_SIZE);
}

/** Collects every pending `signal` of the calling thread, which has it blocked. Throws SysError. */
export class SignalCollector {
  private readonly set: NativeBuffer;
  private readonly timeout = new NativeBuffer(16);

  constructor(signal: number) {
    this.set = signalSet(signal);
  }

  collect(): void {
    for (;;) {
      if (libc.sigtimedwait(this.set.address, 0, this.timeout.address) >= 0) continue;
      const errno = lastErrno();
      if (errno === EAGAIN) return;
      if (errno !== EINTR) throw new SysError('sigtimedwait', errno);
    }
  }
}

/** The size that struct kvm_signal_mask's `len` must have. */
export const KVM_SIGSET_SIZE = KERNEL_SIGSET_SIZE;
