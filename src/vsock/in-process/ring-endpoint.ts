// A stream of this process as the host side of a connection: the I/O worker's half of a StreamBlock.
//
// Runs in the I/O worker. Bytes are copied between the rings and guest memory, once; nothing is allocated per packet.
// The main thread's half is stream.ts.

import { EAGAIN, EPIPE } from '../../platform/errno.js';
import type { DeferredTask, EventLoop } from '../../platform/event-loop.js';
import type { IovecArray } from '../../platform/iovec.js';
import { addressOf, libc } from '../../platform/libc.js';
import type { EndpointEvents, EndReason, StreamEndpoint } from '../endpoint.js';
import type { BellRinger } from './bell.js';
import {
  GONE_FINISHED,
  GONE_REFUSED,
  GONE_RESET,
  GONE_SHIFT,
  GONE_TIMED_OUT,
  GUEST_ACCEPTED_MASK,
  GUEST_DEAF_MASK,
  GUEST_ENDED_MASK,
  GUEST_GONE_MASK,
  HOST_BROKEN_MASK,
  HOST_CLOSED_MASK,
  HOST_ENDED_MASK,
  RING_BYTES,
  WORD,
  type GoneReason,
  type StreamBlock,
} from './stream-block.js';

const GONE_BY_REASON: Readonly<Record<EndReason, GoneReason>> = {
  finished: GONE_FINISHED,
  refused: GONE_REFUSED,
  'timed-out': GONE_TIMED_OUT,
  reset: GONE_RESET,
};

/** A writer that waits for room is told when a quarter of the ring is free: each wake-up is worth its cost. */
const ROOM_WORTH_TELLING = RING_BYTES / 4;

/** What an endpoint uses of the hub it belongs to. */
export interface EndpointHub {
  readonly loop: EventLoop;
  readonly bell: BellRinger;
  /** The slot is free for the main thread to use again. */
  released(slot: number): void;
}

export class RingEndpoint implements StreamEndpoint, DeferredTask {
  readonly requestTimeoutMs: number | undefined;
  private readonly hub: EndpointHub;
  private readonly slot: number;
  private readonly block: StreamBlock;
  private readonly toGuestAddress: number;
  private readonly toHostAddress: number;
  private events: EndpointEvents | undefined;
  private closed = false;
  private hungUp = false;
  private wantsRoom = false;

  constructor(hub: EndpointHub, slot: number, block: StreamBlock, requestTimeoutMs?: number) {
    this.requestTimeoutMs = requestTimeoutMs;
    this.hub = hub;
    this.slot = slot;
    this.block = block;
    this.toGuestAddress = addressOf(block.toGuest);
    this.toHostAddress = addressOf(block.toHost);
  }

  attach(events: EndpointEvents): void {
    this.events = events;
    // The caller may have written, ended or broken off meanwhile. Not from in here: the connection is being made.
    this.hub.loop.defer(this);
  }

  run(): void {
    this.look();
  }

  /** Tells the connection what the main thread has done. Called when the bell was rung for this slot. */
  look(): void {
    if (this.closed) return;
    const { block } = this;
    const flags = Atomics.load(block.words, WORD.HOST_FLAGS);
    if ((flags & HOST_BROKEN_MASK) !== 0) {
      this.events?.endpointReset();
      return;
    }
    const ended = (flags & HOST_ENDED_MASK) !== 0;
    // A wish may have been taken for something that was dealt with meanwhile: whoever is told looks, and wishes anew.
    if (ended || this.askForBytes()) this.events?.endpointReadable(ended);
    if (this.wantsRoom) {
      if (this.room() > 0) this.events?.endpointWritable();
      this.askForRoom();
    }
    if ((flags & HOST_CLOSED_MASK) !== 0 && !this.hungUp) {
      this.hungUp = true;
      this.events?.endpointHungUp();
    }
  }

  /** Says that the connection is established; only then does the caller get its stream. */
  accepted(localPort: number): number {
    Atomics.store(this.block.words, WORD.HOST_PORT, localPort);
    this.say(GUEST_ACCEPTED_MASK);
    return 0;
  }

  read(target: IovecArray, first: number, count: number): number {
    const { block } = this;
    const { words } = block;
    // The flags before the index: whoever sees the end sees all that came before it.
    const flags = Atomics.load(words, WORD.HOST_FLAGS);
    if ((flags & HOST_BROKEN_MASK) !== 0) return -EPIPE;
    let done = 0;
    let entry = first;
    let offset = 0;
    for (;;) {
      const tail = Atomics.load(words, WORD.TO_GUEST_TAIL);
      // Pairs with the store in VsockStream: bytes below the head are written.
      const available = (Atomics.load(words, WORD.TO_GUEST_HEAD) - tail) | 0;
      let left = available;
      let index = tail;
      while (left > 0 && entry < first + count) {
        const start = block.position(index);
        const room = target.lengthAt(entry) - offset;
        const take = Math.min(left, room, RING_BYTES - start);
        libc.memcpy(target.addressAt(entry) + offset, this.toGuestAddress + start, take);
        index = (index + take) | 0;
        left -= take;
        offset += take;
        if (offset === target.lengthAt(entry)) {
          entry++;
          offset = 0;
        }
      }
      if (left < available) {
        // Hands the places back; only after they were read.
        Atomics.store(words, WORD.TO_GUEST_TAIL, index);
        done += available - left;
        this.tellRoom();
      }
      if (entry === first + count) return done;
      if ((flags & HOST_ENDED_MASK) !== 0) return done;
      // The ring is empty. If it fills up just now, either the bell rings or the loop goes on.
      if (!this.askForBytes()) return done > 0 ? done : -EAGAIN;
    }
  }

  write(source: IovecArray, first: number, count: number): number {
    const { block } = this;
    const { words } = block;
    if ((Atomics.load(words, WORD.HOST_FLAGS) & (HOST_CLOSED_MASK | HOST_BROKEN_MASK)) !== 0) return -EPIPE;
    const head = Atomics.load(words, WORD.TO_HOST_HEAD);
    // Pairs with the store in VsockStream: places below the tail are read and free.
    const room = RING_BYTES - ((head - Atomics.load(words, WORD.TO_HOST_TAIL)) | 0);
    let left = room;
    let index = head;
    for (let entry = first; entry < first + count && left > 0; entry++) {
      let length = Math.min(left, source.lengthAt(entry));
      let address = source.addressAt(entry);
      left -= length;
      while (length > 0) {
        const start = block.position(index);
        const take = Math.min(length, RING_BYTES - start);
        libc.memcpy(this.toHostAddress + start, address, take);
        index = (index + take) | 0;
        address += take;
        length -= take;
      }
    }
    if (left === room) return -EAGAIN;
    // Publishes the bytes to the main thread.
    Atomics.store(words, WORD.TO_HOST_HEAD, index);
    if (block.takeWish(WORD.TO_HOST_READER_WAITS)) this.hub.bell.ring(this.slot);
    return room - left;
  }

  watchWritable(watch: boolean): void {
    this.wantsRoom = watch;
    this.askForRoom();
  }

  shutdownWrite(): void {
    this.say(GUEST_ENDED_MASK);
  }

  shutdownRead(): void {
    this.say(GUEST_DEAF_MASK);
  }

  close(reason: EndReason): void {
    if (this.closed) return;
    this.closed = true;
    this.events = undefined;
    this.wantsRoom = false;
    const gone = GONE_BY_REASON[reason];
    const ended = gone === GONE_FINISHED ? GUEST_ENDED_MASK : 0;
    // First the slot: once the main thread has heard, it may use it anew.
    this.hub.released(this.slot);
    this.say(ended | GUEST_DEAF_MASK | GUEST_GONE_MASK | (gone << GONE_SHIFT));
  }

  /** Asks to be told of bytes, then looks once more: whether there are some already. */
  private askForBytes(): boolean {
    Atomics.store(this.block.words, WORD.TO_GUEST_READER_WAITS, 1);
    return this.block.used(WORD.TO_GUEST_HEAD, WORD.TO_GUEST_TAIL) > 0;
  }

  /** Asks to be told of room, if it is wanted, then looks once more. */
  private askForRoom(): void {
    if (!this.wantsRoom) return;
    Atomics.store(this.block.words, WORD.TO_HOST_WRITER_WAITS, 1);
    // Room made before the wish was seen is told by nobody. Not from in here: the connection is about to buffer.
    if (this.room() > 0) this.hub.loop.defer(this);
  }

  private room(): number {
    return RING_BYTES - this.block.used(WORD.TO_HOST_HEAD, WORD.TO_HOST_TAIL);
  }

  private tellRoom(): void {
    const { block } = this;
    if (RING_BYTES - block.used(WORD.TO_GUEST_HEAD, WORD.TO_GUEST_TAIL) < ROOM_WORTH_TELLING) return;
    if (block.takeWish(WORD.TO_GUEST_WRITER_WAITS)) this.hub.bell.ring(this.slot);
  }

  private say(flags: number): void {
    Atomics.or(this.block.words, WORD.GUEST_FLAGS, flags);
    this.hub.bell.ring(this.slot);
  }
}
