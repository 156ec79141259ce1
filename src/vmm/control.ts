// The control block of a VM: a few shared words by which the main thread stops workers and sees how far they are.
//
// Workers block inside system calls and run no event loop, so "stop" is a word in shared memory plus something that
// ends the blocking call: a signal for a vCPU, an eventfd for an I/O worker.

import { acquire, release } from '../platform/shared-lock.js';
import { libc, signalThread } from '../platform/libc.js';
import { NativeBuffer } from '../platform/native-buffer.js';
import { KICK_SIGNAL } from '../platform/signals.js';
import { epochNow } from './start-times.js';
import type { HostAddress, ThreadId } from '../platform/units.js';
import { RUN } from './kvm/abi.js';

const STOP = 0;
/** Guards every vCPU state: a thread is signalled only while it is known to be alive. */
const STATE_LOCK = 1;
/** vCPUs that exist and are set up. */
const READY_COUNT = 2;
/** What a vCPU thread that is taken out of KVM_RUN is to do: a VcpuOrder, and above it the number of the order. */
const ORDER = 3;
/** Threads that have let go of everything, whatever their end was. */
const ENDED_COUNT = 4;
const VCPUS = 16;
const VCPU_WORDS = 16;
const VCPU_STATE = 0;
const VCPU_THREAD = 1;
// A 64-bit counter in a Float64: exact to 2^53 exits, and a plain store for its one writer.
const VCPU_EXITS = 4;
/** The address of the kvm_run page, as a Float64 too. */
const VCPU_RUN_ADDRESS = 6;
/** More vCPUs than any configuration allows fit below. */
const CONTROL_BYTES = 8192;
// When the guest wrote each POST code first: milliseconds since the epoch, as Float64, behind the words.
const POST_CODE_COUNT = 256;

/** Between two looks at the stop word while other vCPUs are being set up. */
const READY_POLL_MS = 20;

// 0: not running yet.
const STATE_RUNNING = 1;
const STATE_STOPPED = 2;

const ORDER_BITS = 2;
const ORDER_MASK = (1 << ORDER_BITS) - 1;

/** Run the guest. */
export const ORDER_RUN = 0;
/** Wait outside the guest. */
export const ORDER_PARK = 1;
/** The same, and report the vCPU's state once. */
export const ORDER_SAVE = 2;
export type VcpuOrder = typeof ORDER_RUN | typeof ORDER_PARK | typeof ORDER_SAVE;

const one = new NativeBuffer(1);
one.bytes[0] = 1;

/** What an order asks for. */
export function orderKind(name: number): VcpuOrder {
  return (name & ORDER_MASK) as VcpuOrder;
}

/** The shared words of one VM, as any thread sees them. */
export class ControlBlock {
  readonly buffer: SharedArrayBuffer;
  private readonly words: Int32Array;
  private readonly floats: Float64Array;
  private readonly postCodes: Float64Array;

  constructor(buffer: SharedArrayBuffer) {
    this.buffer = buffer;
    this.words = new Int32Array(buffer, 0, CONTROL_BYTES / 4);
    this.floats = new Float64Array(buffer, 0, CONTROL_BYTES / 8);
    this.postCodes = new Float64Array(buffer, CONTROL_BYTES, POST_CODE_COUNT);
  }

  static create(): ControlBlock {
    return new ControlBlock(new SharedArrayBuffer(CONTROL_BYTES + POST_CODE_COUNT * 8));
  }

  /** Asks every worker to leave its loop; the caller wakes them as well. */
  requestStop(): void {
    Atomics.store(this.words, STOP, 1);
    this.order(ORDER_RUN);
  }

  /**
   * Tells every vCPU what to do; those in the guest have to be kicked to hear of it. Returns the order's name, which no
   * other order has: a vCPU may sleep through one and see only the next.
   */
  order(order: VcpuOrder): number {
    const name = (((Atomics.load(this.words, ORDER) >>> ORDER_BITS) + 1) << ORDER_BITS) | order;
    Atomics.store(this.words, ORDER, name);
    Atomics.notify(this.words, ORDER);
    return name;
  }

  /** The name of the order that holds. */
  get currentOrder(): number {
    return Atomics.load(this.words, ORDER);
  }

  /** Whether the vCPUs are to be in the guest. */
  get mayRun(): boolean {
    return orderKind(this.currentOrder) === ORDER_RUN;
  }

  /** For a vCPU thread: waits until another order than the one called `name` holds. */
  awaitOtherOrder(name: number): void {
    Atomics.wait(this.words, ORDER, name);
  }

  get stopRequested(): boolean {
    return Atomics.load(this.words, STOP) !== 0;
  }

  /** A thread says that it has let go of everything that this block is about. */
  threadEnded(): void {
    Atomics.add(this.words, ENDED_COUNT, 1);
    Atomics.notify(this.words, ENDED_COUNT);
  }

  /** Whether `count` threads have ended; waits for the next one for at most that long, and may be early. */
  threadsEnded(count: number, milliseconds: number): boolean {
    const ended = Atomics.load(this.words, ENDED_COUNT);
    if (ended >= count) return true;
    Atomics.wait(this.words, ENDED_COUNT, ended, milliseconds);
    return Atomics.load(this.words, ENDED_COUNT) >= count;
  }

  /** A vCPU thread says that its vCPU exists: the boot processor may wake it. */
  vcpuReady(): void {
    Atomics.add(this.words, READY_COUNT, 1);
    Atomics.notify(this.words, READY_COUNT);
  }

  /** Waits until `count` vCPUs exist; returns false when the machine is to stop before that. */
  awaitVcpus(count: number): boolean {
    for (;;) {
      const ready = Atomics.load(this.words, READY_COUNT);
      if (ready >= count) return true;
      if (this.stopRequested) return false;
      Atomics.wait(this.words, READY_COUNT, ready, READY_POLL_MS);
    }
  }

  /** A vCPU thread says that it can be kicked from now on: its id, and where its kvm_run page is. */
  vcpuRunning(vcpu: number, thread: ThreadId, runAddress: HostAddress): void {
    const base = VCPUS + vcpu * VCPU_WORDS;
    this.floats[(base + VCPU_RUN_ADDRESS) / 2] = runAddress;
    this.words[base + VCPU_THREAD] = thread;
    Atomics.store(this.words, base + VCPU_STATE, STATE_RUNNING);
  }

  /** A vCPU thread says that it is about to end: it may not be kicked any more. */
  vcpuStopped(vcpu: number): void {
    acquire(this.words, STATE_LOCK);
    Atomics.store(this.words, VCPUS + vcpu * VCPU_WORDS + VCPU_STATE, STATE_STOPPED);
    release(this.words, STATE_LOCK);
  }

  /**
   * Takes a vCPU thread out of KVM_RUN, or keeps it from staying in the next one. Does nothing while it is not running.
   * Throws SysError.
   */
  kickVcpu(vcpu: number): void {
    const base = VCPUS + vcpu * VCPU_WORDS;
    acquire(this.words, STATE_LOCK);
    try {
      if (Atomics.load(this.words, base + VCPU_STATE) !== STATE_RUNNING) return;
      // Before the signal: whichever side of KVM_RUN's entry the thread is on, one of the two ends it.
      const runAddress = this.floats[(base + VCPU_RUN_ADDRESS) / 2] as HostAddress;
      libc.memcpy(runAddress + RUN.IMMEDIATE_EXIT, one.address, 1);
      signalThread(this.words[base + VCPU_THREAD] as ThreadId, KICK_SIGNAL);
    } finally {
      release(this.words, STATE_LOCK);
    }
  }

  /** Exits to user space that a vCPU has taken so far, to within 64. */
  exitCount(vcpu: number): number {
    return this.floats[this.exitSlot(vcpu)];
  }

  /** The element of `exitCounters` that a vCPU counts its exits in. */
  exitSlot(vcpu: number): number {
    return (VCPUS + vcpu * VCPU_WORDS + VCPU_EXITS) / 2;
  }

  /** For the vCPU loop, which is the only writer of its own element. */
  get exitCounters(): Float64Array {
    return this.floats;
  }

  /** Notes that the guest wrote `code` (0 to 255) to the POST port; only the first time counts. */
  notePostCode(code: number): void {
    if (this.postCodes[code] === 0) this.postCodes[code] = epochNow();
  }

  /** When the guest wrote `code` first, in milliseconds since the epoch; 0 if it did not yet. */
  postCodeTime(code: number): number {
    return this.postCodes[code];
  }
}
