// Signals to single threads: how a vCPU thread is taken out of KVM_RUN without any C code of ours.
//
// A signal ends KVM_RUN only if a handler runs for it, and only if it arrives while KVM_RUN runs. For the first, the
// handler is `abs` of the C library: a function of one int that does nothing. For the second, the sender sets the
// `immediate_exit` byte of the kvm_run page before it sends, so that a KVM_RUN entered a moment later returns at once.
// (The older way, KVM_SET_SIGNAL_MASK, changes the thread's mask twice around each KVM_RUN: 3 % of the time of an exit.)

import { addressOfFunction, check, libc } from './libc.js';
import { NativeBuffer } from './native-buffer.js';

/** A real-time signal well above those that glibc and Node keep for themselves (SIGRTMIN is 34 in user space). */
export const KICK_SIGNAL = 44;

/** struct sigaction of glibc and musl: { void (*sa_handler)(int); sigset_t sa_mask; int sa_flags; void (*sa_restorer)(void); } */
const SIGACTION = { SIZE: 152, HANDLER: 0, FLAGS: 136 };
/** Other system calls that the signal meets go on by themselves. KVM_RUN is not one of those: it returns EINTR. */
const SA_RESTART = 0x1000_0000;

/**
 * Makes KICK_SIGNAL harmless wherever it arrives, instead of ending the process. Process-wide; once is enough, again
 * does no harm. Throws SysError.
 */
export function installKickHandler(): void {
  const action = new NativeBuffer(SIGACTION.SIZE);
  action.setU64(SIGACTION.HANDLER, addressOfFunction('abs'));
  action.setU32(SIGACTION.FLAGS, SA_RESTART);
  check(libc.sigaction(KICK_SIGNAL, action.address, 0), 'sigaction');
}
