// "Look at stream N": one thread tells another, without a system call while the other is awake.
//
// One bell per direction, between the main thread and the I/O worker; one thread rings, the other answers. A set bit
// means that the stream has to be looked at, so ringing twice costs nothing and nothing can overflow. Three levels of
// 32 find the set bits among 32,768 without searching.
//
// Order on both sides. The ringer changes the stream, then rings; the answerer takes a bit, then looks at the stream.
// Levels are set from the bottom and taken from the top, so that a set bit is never without a way to it. Sleeping is
// Dekker's: the answerer says that it sleeps and then looks once more, the ringer rings and then looks whether it sleeps.

import { signalEventFd } from '../../platform/eventfd.js';
import type { Fd } from '../../platform/units.js';

/** Streams that a bell can tell apart. Number 0 stands for the control messages. */
export const BELL_SLOTS = 32 * 32 * 32;

const ASLEEP = 0;
/** 16 words on: what the ringer reads all the time is not in the cache line that the bits are in. */
const TOP = 16;
const MIDDLE = TOP + 1;
const LOW = MIDDLE + 32;
const WORDS = LOW + BELL_SLOTS / 32;

export function createBellMemory(): SharedArrayBuffer {
  return new SharedArrayBuffer(WORDS * Int32Array.BYTES_PER_ELEMENT);
}

/** The ringing end. */
export class BellRinger {
  private readonly words: Int32Array;
  private readonly wakeEvent: Fd;
  private silent = false;

  /** `wakeEvent` wakes the answering thread. */
  constructor(memory: SharedArrayBuffer, wakeEvent: Fd) {
    this.words = new Int32Array(memory);
    this.wakeEvent = wakeEvent;
  }

  ring(slot: number): void {
    if (this.silent) return;
    const { words } = this;
    const bit = 1 << (slot & 31);
    // Set already: whoever takes it does so later than now, and looks later still.
    if ((Atomics.or(words, LOW + (slot >>> 5), bit) & bit) !== 0) return;
    Atomics.or(words, MIDDLE + (slot >>> 10), 1 << ((slot >>> 5) & 31));
    Atomics.or(words, TOP, 1 << (slot >>> 10));
    // After the bits; BellAnswerer.sleep stores the flag before it looks at them.
    if (Atomics.load(words, ASLEEP) === 1 && Atomics.exchange(words, ASLEEP, 0) === 1) signalEventFd(this.wakeEvent);
  }

  /** There is nobody to hear any more, and `wakeEvent` is about to be closed. */
  silence(): void {
    this.silent = true;
  }
}

/** The answering end. */
export class BellAnswerer {
  private readonly words: Int32Array;
  private readonly taken = new Int32Array(BELL_SLOTS);
  private saidAsleep = false;

  constructor(memory: SharedArrayBuffer) {
    this.words = new Int32Array(memory);
  }

  get rung(): boolean {
    return Atomics.load(this.words, TOP) !== 0;
  }

  /** Takes every set bit: how many there are; `slotAt` says which. */
  take(): number {
    const { words, taken } = this;
    if (Atomics.load(words, TOP) === 0) return 0;
    let count = 0;
    for (let top = Atomics.exchange(words, TOP, 0); top !== 0; top &= top - 1) {
      const upper = trailingZeros(top);
      for (let middle = Atomics.exchange(words, MIDDLE + upper, 0); middle !== 0; middle &= middle - 1) {
        const word = (upper << 5) | trailingZeros(middle);
        for (let low = Atomics.exchange(words, LOW + word, 0); low !== 0; low &= low - 1) {
          taken[count++] = (word << 5) | trailingZeros(low);
        }
      }
    }
    return count;
  }

  /** The slots that the last `take` found, 0 first and the rest in ascending order. */
  slotAt(index: number): number {
    return this.taken[index];
  }

  /** Asks for a wake-up at the next ring. Returns false, and asks for nothing, when there is something to take. */
  sleep(): boolean {
    Atomics.store(this.words, ASLEEP, 1);
    this.saidAsleep = true;
    if (!this.rung) return true;
    this.stayAwake();
    return false;
  }

  /** From here on rings need no wake-up, for this thread looks again before it sleeps. */
  stayAwake(): void {
    if (!this.saidAsleep) return;
    this.saidAsleep = false;
    Atomics.store(this.words, ASLEEP, 0);
  }
}

/** The index of the lowest set bit; there is one. */
function trailingZeros(word: number): number {
  return 31 - Math.clz32(word & -word);
}
