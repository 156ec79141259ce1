// A stream to the guest as a Node Duplex: the main thread's half of a StreamBlock. The worker's half is ring-endpoint.ts.
//
// Runs in the main thread. What each of Node's words becomes on the wire:
//
//   end()      SHUTDOWN(SEND), behind everything that was written
//   'end'      the guest said SHUTDOWN(SEND), and all it sent before has been read
//   destroy()  RST; after 'finish' the connection is closed in order instead, and nothing that was written is lost
//   'error'    RESET: the guest broke off. CLOSED: it reads no more, or the VM is gone. Never after 'end' and 'finish'
//
// A guest that closes both directions at once ends the writable side too: half of a stream that nobody is behind would
// only wait to be forgotten.
//
// A reader that stops reading leaves bytes in the ring, then in the worker, and then the guest has no credit left.

import { Duplex } from 'node:stream';
import { KIB } from '../../platform/units.js';
import type { BellRinger } from './bell.js';
import { VsockError } from './errors.js';
import {
  GONE_FINISHED,
  GONE_SHIFT,
  GUEST_DEAF_MASK,
  GUEST_ENDED_MASK,
  GUEST_GONE_MASK,
  HOST_BROKEN_MASK,
  HOST_CLOSED_MASK,
  HOST_ENDED_MASK,
  RING_BYTES,
  WORD,
  type StreamBlock,
} from './stream-block.js';

/** The largest piece that a reader gets. */
const READ_BYTES = 64 * KIB;
/** What one stream may deliver before the event loop has its turn. */
const TURN_BYTES = 4 * RING_BYTES;
/** The worker waits for room until a quarter of the ring is free: each wake-up is worth its cost. */
const ROOM_WORTH_TELLING = RING_BYTES / 4;

/** Whatever has a slot hears of the bell and of the VM's end. */
export interface SlotUser {
  look(): void;
  vmEnded(): void;
}

/** What a stream uses of the host it belongs to. */
export interface StreamOwner {
  readonly bell: BellRinger;
  /** The VM is ending: that, and not the guest, is why connections break. */
  readonly vmIsEnding: boolean;
  /** Neither side uses the slot any more. */
  release(slot: number): void;
}

/** Who talks to whom, as the guest sees it. */
export interface StreamPorts {
  readonly guestPort: number;
  readonly hostPort: number;
}

type WriteCallback = (error?: Error | null) => void;

/**
 * A connection to the guest, as a Node Duplex of bytes. Made by `vm.vsock.connect` and by servers.
 *
 * `end()` tells the guest that no more comes, and `'end'` that the guest has said so. `destroy()` breaks the connection off,
 * unless all that was written is through. `'error'` has a VsockError: RESET when the guest breaks off, CLOSED when it reads no
 * more or the VM has ended. A reader that stops reading makes the guest wait.
 */
export class VsockStream extends Duplex {
  /** The guest's port of this connection. */
  readonly guestPort: number;
  /** The host's port of this connection. */
  readonly hostPort: number;
  /** Bytes taken from the guest so far. */
  bytesRead = 0;
  /** Bytes handed over for the guest so far. */
  bytesWritten = 0;

  private readonly owner: StreamOwner;
  private readonly slot: number;
  private readonly block: StreamBlock;
  private wantsData = false;
  private refillPlanned = false;
  private endPushed = false;
  private readonly pending: Uint8Array[] = [];
  private pendingOffset = 0;
  private pendingCallback: WriteCallback | undefined;
  /** The worker has let go of the block. */
  private gone = false;
  private released = false;

  /** @internal */
  constructor(owner: StreamOwner, slot: number, block: StreamBlock, ports: StreamPorts) {
    super({ allowHalfOpen: true, readableHighWaterMark: READ_BYTES, writableHighWaterMark: RING_BYTES });
    this.owner = owner;
    this.slot = slot;
    this.block = block;
    this.guestPort = ports.guestPort;
    this.hostPort = ports.hostPort;
  }

  /** @internal Something has changed on the worker's side. */
  look(): void {
    if (this.released) return;
    const flags = this.guestFlags();
    if ((flags & GUEST_GONE_MASK) !== 0) this.gone = true;
    if (this.destroyed) {
      this.releaseIfOver();
      return;
    }
    this.pump();
    this.fill();
    if (this.gone) this.finishGone();
  }

  /** @internal The VM is gone: what it sent is handed out, and the rest fails. */
  vmEnded(): void {
    this.gone = true;
    if (this.destroyed) {
      this.releaseIfOver();
      return;
    }
    const ended = (this.guestFlags() & GUEST_ENDED_MASK) !== 0;
    if (!ended || this.pendingCallback !== undefined) {
      this.destroy(this.brokenOff());
      return;
    }
    while (this.available() > 0) this.push(this.takePiece());
    this.pushEnd();
  }

  /** @internal */
  override _read(): void {
    this.wantsData = true;
    this.fill();
  }

  /** @internal */
  override _write(chunk: Uint8Array, _encoding: BufferEncoding, callback: WriteCallback): void {
    this.pending.push(chunk);
    this.pendingCallback = callback;
    this.pump();
  }

  /** @internal */
  override _writev(chunks: readonly { readonly chunk: unknown }[], callback: WriteCallback): void {
    for (const { chunk } of chunks) this.pending.push(chunk as Uint8Array);
    this.pendingCallback = callback;
    this.pump();
  }

  /** @internal */
  override _final(callback: WriteCallback): void {
    // After the last byte: the worker loads the flags before the index.
    this.say(HOST_ENDED_MASK);
    callback();
  }

  /** @internal */
  override _destroy(error: Error | null, callback: (error?: Error | null) => void): void {
    const ended = (Atomics.load(this.block.words, WORD.HOST_FLAGS) & HOST_ENDED_MASK) !== 0;
    this.say(error === null && ended ? HOST_CLOSED_MASK : HOST_BROKEN_MASK);
    this.finishWrite(error ?? new VsockError('CLOSED', this.guestPort));
    this.releaseIfOver();
    callback(error);
  }

  // ---- Guest to host

  private available(): number {
    return this.block.used(WORD.TO_HOST_HEAD, WORD.TO_HOST_TAIL);
  }

  /** Hands out what the ring holds, as long as the reader wants it. */
  private fill(): void {
    let budget = TURN_BYTES;
    while (this.wantsData && !this.destroyed) {
      // The flags before the index: whoever sees the end sees all that came before it.
      const flags = this.guestFlags();
      if (this.available() === 0) {
        if ((flags & GUEST_ENDED_MASK) !== 0) {
          this.wantsData = false;
          this.pushEnd();
          return;
        }
        if ((flags & GUEST_GONE_MASK) !== 0) {
          this.destroy(this.brokenOff());
          return;
        }
        // Asks to be told of more, then looks once more.
        Atomics.store(this.block.words, WORD.TO_HOST_READER_WAITS, 1);
        if (this.available() === 0 || !this.block.takeWish(WORD.TO_HOST_READER_WAITS)) return;
        continue;
      }
      if (budget <= 0) {
        this.planRefill();
        return;
      }
      const piece = this.takePiece();
      budget -= piece.length;
      // `push` may call `_read`, whose wish must not be lost.
      this.wantsData = false;
      if (this.push(piece)) this.wantsData = true;
    }
  }

  private pushEnd(): void {
    if (this.endPushed) return;
    this.endPushed = true;
    if ((this.guestFlags() & GUEST_GONE_MASK) !== 0) this.gone = true;
    this.endIfOver();
    this.push(null);
  }

  private planRefill(): void {
    if (this.refillPlanned) return;
    this.refillPlanned = true;
    setImmediate(() => {
      this.refillPlanned = false;
      this.fill();
    });
  }

  /** A copy of the next bytes of the ring, which holds some. */
  private takePiece(): Buffer {
    const { block } = this;
    const tail = Atomics.load(block.words, WORD.TO_HOST_TAIL);
    const start = block.position(tail);
    // No further than the end of the ring: two pieces cost less than putting one together.
    const length = Math.min(this.available(), READ_BYTES, RING_BYTES - start);
    const piece = Buffer.allocUnsafeSlow(length);
    piece.set(block.toHost.subarray(start, start + length));
    // Hands the places back; only after they were read.
    Atomics.store(block.words, WORD.TO_HOST_TAIL, (tail + length) | 0);
    if (RING_BYTES - this.available() >= ROOM_WORTH_TELLING && block.takeWish(WORD.TO_HOST_WRITER_WAITS)) {
      this.owner.bell.ring(this.slot);
    }
    this.bytesRead += length;
    return piece;
  }

  // ---- Host to guest

  /** Copies what is to be written into the ring, as far as there is room. */
  private pump(): void {
    const { block, pending } = this;
    while (pending.length > 0) {
      if ((this.guestFlags() & (GUEST_DEAF_MASK | GUEST_GONE_MASK)) !== 0) {
        const detail = 'the guest reads no more';
        this.finishWrite(this.resetError() ?? new VsockError('CLOSED', this.guestPort, { detail }));
        return;
      }
      if (this.copyPending()) continue;
      // Full: asks to be told of room, then looks once more.
      Atomics.store(block.words, WORD.TO_GUEST_WRITER_WAITS, 1);
      if (block.used(WORD.TO_GUEST_HEAD, WORD.TO_GUEST_TAIL) === RING_BYTES) return;
      if (!block.takeWish(WORD.TO_GUEST_WRITER_WAITS)) return;
    }
    this.finishWrite();
  }

  /** Returns whether there was any room. */
  private copyPending(): boolean {
    const { block, pending } = this;
    const head = Atomics.load(block.words, WORD.TO_GUEST_HEAD);
    const room = RING_BYTES - block.used(WORD.TO_GUEST_HEAD, WORD.TO_GUEST_TAIL);
    let done = 0;
    while (done < room && pending.length > 0) {
      const chunk = pending[0];
      const start = block.position(head + done);
      const length = Math.min(chunk.length - this.pendingOffset, room - done, RING_BYTES - start);
      block.toGuest.set(chunk.subarray(this.pendingOffset, this.pendingOffset + length), start);
      done += length;
      this.pendingOffset += length;
      if (this.pendingOffset === chunk.length) {
        pending.shift();
        this.pendingOffset = 0;
      }
    }
    if (done > 0) {
      // Publishes the bytes to the worker.
      Atomics.store(block.words, WORD.TO_GUEST_HEAD, (head + done) | 0);
      if (block.takeWish(WORD.TO_GUEST_READER_WAITS)) this.owner.bell.ring(this.slot);
      this.bytesWritten += done;
    }
    return room > 0;
  }

  private finishWrite(error?: Error): void {
    const callback = this.pendingCallback;
    this.pendingCallback = undefined;
    this.pending.length = 0;
    this.pendingOffset = 0;
    callback?.(error);
  }

  // ---- Ends

  private guestFlags(): number {
    return Atomics.load(this.block.words, WORD.GUEST_FLAGS);
  }

  private resetError(): VsockError | undefined {
    const flags = this.guestFlags();
    const reset = (flags & GUEST_GONE_MASK) !== 0 && goneReason(flags) !== GONE_FINISHED;
    return reset ? this.brokenOff() : undefined;
  }

  private brokenOff(): VsockError {
    if (!this.owner.vmIsEnding) return new VsockError('RESET', this.guestPort);
    return new VsockError('CLOSED', this.guestPort, { detail: 'the VM has ended' });
  }

  private say(flags: number): void {
    // A released block may belong to another stream already.
    if (this.released) return;
    Atomics.or(this.block.words, WORD.HOST_FLAGS, flags);
    this.owner.bell.ring(this.slot);
  }

  private finishGone(): void {
    if (this.destroyed) return;
    if (goneReason(this.guestFlags()) === GONE_FINISHED) this.endIfOver();
    // What came before the reset is delivered first, in `fill`.
    else if (this.available() === 0) this.destroy(this.brokenOff());
  }

  /** With the guest gone and all it sent handed out, nobody is there to write to. */
  private endIfOver(): void {
    if (this.gone && this.endPushed && !this.writableEnded) this.end();
  }

  private releaseIfOver(): void {
    if (!this.gone || this.released) return;
    this.released = true;
    this.owner.release(this.slot);
  }
}

function goneReason(flags: number): number {
  return flags >>> GONE_SHIFT;
}
