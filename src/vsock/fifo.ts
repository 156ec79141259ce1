// A queue in a circular array that grows when it must and never shrinks: no allocation in the steady state.

const INITIAL_CAPACITY = 64;

export class Fifo<T> {
  private items: (T | undefined)[] = new Array<T | undefined>(INITIAL_CAPACITY).fill(undefined);
  private head = 0;
  private count = 0;

  get length(): number {
    return this.count;
  }

  push(item: T): void {
    if (this.count === this.items.length) this.grow();
    this.items[(this.head + this.count) & (this.items.length - 1)] = item;
    this.count++;
  }

  /** The oldest item, which stays. */
  peek(): T | undefined {
    return this.items[this.head];
  }

  shift(): T | undefined {
    const item = this.items[this.head];
    if (item === undefined) return undefined;
    this.items[this.head] = undefined;
    this.head = (this.head + 1) & (this.items.length - 1);
    this.count--;
    return item;
  }

  clear(): void {
    this.items.fill(undefined);
    this.head = 0;
    this.count = 0;
  }

  private grow(): void {
    const { length } = this.items;
    const larger = new Array<T | undefined>(length * 2).fill(undefined);
    for (let index = 0; index < this.count; index++) larger[index] = this.items[(this.head + index) & (length - 1)];
    this.items = larger;
    this.head = 0;
  }
}
