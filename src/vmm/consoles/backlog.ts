// The last bytes that a console printed while nobody was there to see them. Main thread.

/** As much as a terminal scrolls back, more or less. */
const DEFAULT_CAPACITY = 64 * 1024;

/** A bounded queue of bytes in which new ones push the oldest out. Its memory is taken when it is first needed. */
export class Backlog {
  private readonly capacity: number;
  private memory: Uint8Array | undefined;
  private start = 0;
  private used = 0;

  constructor(capacity = DEFAULT_CAPACITY) {
    this.capacity = capacity;
  }

  get length(): number {
    return this.used;
  }

  push(bytes: Uint8Array): void {
    const { capacity } = this;
    const memory = (this.memory ??= new Uint8Array(new ArrayBuffer(capacity)));
    const kept = bytes.subarray(Math.max(0, bytes.length - capacity));
    this.drop(Math.max(0, this.used + kept.length - capacity));
    const end = (this.start + this.used) % capacity;
    const beforeWrap = Math.min(kept.length, capacity - end);
    memory.set(kept.subarray(0, beforeWrap), end);
    memory.set(kept.subarray(beforeWrap), 0);
    this.used += kept.length;
  }

  /** The oldest bytes, in one piece: not necessarily all. Valid until the next call. */
  peek(): Uint8Array {
    const { memory, start, used } = this;
    return memory === undefined ? new Uint8Array() : memory.subarray(start, Math.min(start + used, memory.length));
  }

  /** Takes the `count` oldest bytes away. */
  drop(count: number): void {
    this.start = (this.start + count) % this.capacity;
    this.used -= count;
  }
}
