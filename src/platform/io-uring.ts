// io_uring(7), as far as it helps a thread that waits anyway: several transfers under way at once, begun and waited for with
// one call. Any thread; one ring belongs to one thread.
//
// Nothing is under way between two calls of `run`, so a ring holds no memory of a guest while nobody looks. The kernel's
// rings are reached by memcpy: they cannot be mapped under a SharedArrayBuffer (io_uring refuses fixed addresses), and two
// copies for a batch are nothing beside its system call. struct io_uring_params, io_uring_sqe and io_uring_cqe are those of
// include/uapi/linux/io_uring.h.

import { EINTR, SysError } from './errno.js';
import { close, lastErrno, libc } from './libc.js';
import { mapShared, unmap } from './mapping.js';
import { NativeBuffer } from './native-buffer.js';
import type { Fd, HostAddress } from './units.js';

const SYS_IO_URING_SETUP = 425;
const SYS_IO_URING_ENTER = 426;

const IORING_OP_READV = 1;
const IORING_OP_WRITEV = 2;
const IORING_ENTER_GETEVENTS = 1;
/** Both rings in one mapping: Linux 5.4. */
const IORING_FEAT_SINGLE_MMAP = 1;
const IORING_OFF_SQ_RING = 0;
const IORING_OFF_SQES = 0x1000_0000;

const PARAMS_SIZE = 120;
const PARAMS_SQ_ENTRIES = 0;
const PARAMS_CQ_ENTRIES = 4;
const PARAMS_FEATURES = 20;
// struct io_sqring_offsets and io_cqring_offsets, in words: head, tail, ring_mask, ring_entries, flags, ...
const PARAMS_SQ_OFF = 40;
const PARAMS_CQ_OFF = 80;
const OFF_HEAD = 0;
const OFF_TAIL = 4;
const SQ_OFF_ARRAY = 24;
const CQ_OFF_CQES = 20;

const SQE_SIZE = 64;
const SQE_FD = 4;
const SQE_OFF = 8;
const SQE_ADDR = 16;
const SQE_LEN = 24;
const SQE_USER_DATA = 32;
const CQE_SIZE = 16;
const CQE_RES = 8;

export class IoUring {
  /** Transfers in one batch at most, a power of two. */
  readonly capacity: number;
  private readonly fd: Fd;
  private readonly rings: { readonly address: HostAddress; readonly size: number };
  private readonly sqes: { readonly address: HostAddress; readonly size: number };
  private readonly submissionTail: HostAddress;
  private readonly completionHead: HostAddress;
  private readonly completionTail: HostAddress;
  private readonly cqes: HostAddress;
  private readonly cqEntries: number;
  /** The entries of the batch, and room for its completions. */
  private readonly batch: NativeBuffer;
  private readonly completions: NativeBuffer;
  /** One word that is copied to or from a ring. */
  private readonly word = new NativeBuffer(4);
  private count = 0;
  /** As the kernel has them, modulo 2^32. */
  private tail = 0;
  private head = 0;

  private constructor(fd: Fd, params: NativeBuffer) {
    this.fd = fd;
    this.capacity = params.u32(PARAMS_SQ_ENTRIES);
    this.cqEntries = params.u32(PARAMS_CQ_ENTRIES);
    const at = (ring: number, field: number): number => params.u32(ring + field);
    const array = at(PARAMS_SQ_OFF, SQ_OFF_ARRAY);
    const cqes = at(PARAMS_CQ_OFF, CQ_OFF_CQES);
    const size = Math.max(array + this.capacity * 4, cqes + this.cqEntries * CQE_SIZE);
    this.rings = { address: mapShared(fd, size, IORING_OFF_SQ_RING), size };
    try {
      const entries = this.capacity * SQE_SIZE;
      this.sqes = { address: mapShared(fd, entries, IORING_OFF_SQES), size: entries };
    } catch (error) {
      unmap(this.rings.address, size);
      throw error;
    }
    const inRings = (offset: number): HostAddress => (this.rings.address + offset) as HostAddress;
    this.submissionTail = inRings(at(PARAMS_SQ_OFF, OFF_TAIL));
    this.completionHead = inRings(at(PARAMS_CQ_OFF, OFF_HEAD));
    this.completionTail = inRings(at(PARAMS_CQ_OFF, OFF_TAIL));
    this.cqes = inRings(cqes);
    this.batch = new NativeBuffer(this.capacity * SQE_SIZE);
    this.completions = new NativeBuffer(this.cqEntries * CQE_SIZE);
    // Entry N of the ring is always entry N of the array behind it.
    const identity = new NativeBuffer(this.capacity * 4);
    for (let entry = 0; entry < this.capacity; entry++) identity.setU32(entry * 4, entry);
    libc.memcpy(inRings(array), identity.address, identity.byteLength);
  }

  /**
   * A ring for `capacity` transfers at once; undefined where the kernel has none or an administrator or a container's filter
   * does not allow it.
   */
  static open(capacity: number): IoUring | undefined {
    const params = new NativeBuffer(PARAMS_SIZE);
    const fd = libc.syscall(SYS_IO_URING_SETUP, capacity, params.address, 0) as Fd;
    if (fd < 0) return undefined;
    try {
      if ((params.u32(PARAMS_FEATURES) & IORING_FEAT_SINGLE_MMAP) !== 0) return new IoUring(fd, params);
    } catch {
      // A mapping that is refused is one more way of not allowing it.
    }
    close(fd);
    return undefined;
  }

  /** Puts a transfer into the batch, which has room: the `count` iovecs at `iov`, from `offset` of `fd` on. */
  add(reading: boolean, fd: Fd, iov: number, count: number, offset: number): void {
    const { batch } = this;
    const at = this.count * SQE_SIZE;
    batch.bytes.fill(0, at, at + SQE_SIZE);
    batch.bytes[at] = reading ? IORING_OP_READV : IORING_OP_WRITEV;
    batch.setU32(at + SQE_FD, fd);
    setAddress(batch, at + SQE_OFF, offset);
    setAddress(batch, at + SQE_ADDR, iov);
    batch.setU32(at + SQE_LEN, count);
    batch.setU32(at + SQE_USER_DATA, this.count);
    this.count++;
  }

  /**
   * Carries out the batch and waits for all of it. results[N] becomes what readv(2) or writev(2) would have returned for
   * the Nth transfer, -errno for a failure. Throws SysError when the kernel cannot be waited for, which is a bug.
   */
  run(results: Int32Array): void {
    let wanted = this.count;
    this.count = 0;
    this.publish(wanted);
    let submitted = 0;
    let completed = 0;
    while (completed < wanted) {
      const taken = this.enter(wanted - submitted, wanted - completed);
      const errno = taken < 0 ? lastErrno() : 0;
      if (taken > 0) submitted += taken;
      completed += this.reap(results);
      if (errno === 0 || errno === EINTR) continue;
      if (submitted === wanted) throw new SysError('io_uring_enter', errno);
      // The kernel takes no more of them at present; those that it has taken are waited for.
      results.fill(-errno, submitted, wanted);
      this.setTail(this.tail - (wanted - submitted));
      wanted = submitted;
    }
  }

  /** Nothing may be under way. */
  close(): void {
    unmap(this.sqes.address, this.sqes.size);
    unmap(this.rings.address, this.rings.size);
    close(this.fd);
  }

  private publish(count: number): void {
    const first = this.tail & (this.capacity - 1);
    const head = Math.min(count, this.capacity - first);
    libc.memcpy(this.sqes.address + first * SQE_SIZE, this.batch.address, head * SQE_SIZE);
    if (head < count) libc.memcpy(this.sqes.address, this.batch.address + head * SQE_SIZE, (count - head) * SQE_SIZE);
    this.setTail(this.tail + count);
  }

  private enter(toSubmit: number, toAwait: number): number {
    return libc.syscall6(SYS_IO_URING_ENTER, this.fd, toSubmit, toAwait, IORING_ENTER_GETEVENTS, 0, 0);
  }

  private setTail(tail: number): void {
    this.tail = tail >>> 0;
    this.store(this.submissionTail, this.tail);
  }

  /** Takes what is complete; returns how many that were. */
  private reap(results: Int32Array): number {
    libc.memcpy(this.word.address, this.completionTail, 4);
    const count = (this.word.u32(0) - this.head) >>> 0;
    const { completions, cqEntries } = this;
    const first = this.head & (cqEntries - 1);
    const upper = Math.min(count, cqEntries - first);
    libc.memcpy(completions.address, this.cqes + first * CQE_SIZE, upper * CQE_SIZE);
    if (upper < count) libc.memcpy(completions.address + upper * CQE_SIZE, this.cqes, (count - upper) * CQE_SIZE);
    for (let entry = 0; entry < count; entry++) {
      results[completions.u32(entry * CQE_SIZE)] = completions.view.getInt32(entry * CQE_SIZE + CQE_RES, true);
    }
    this.head = (this.head + count) >>> 0;
    this.store(this.completionHead, this.head);
    return count;
  }

  private store(address: HostAddress, value: number): void {
    this.word.setU32(0, value);
    libc.memcpy(address, this.word.address, 4);
  }
}

/** A 64-bit field, without making a BigInt of it. */
function setAddress(buffer: NativeBuffer, at: number, value: number): void {
  const low = value >>> 0;
  buffer.setU32(at, low);
  buffer.setU32(at + 4, (value - low) / 2 ** 32);
}
