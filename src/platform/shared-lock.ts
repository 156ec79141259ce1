// A small lock in shared memory, for register pages that several vCPU threads and the main thread touch.
//
// Critical sections are a handful of loads and stores, so contention is rare and short: spin a little, then sleep in
// the kernel. States: 0 free, 1 held, 2 held with sleepers (the classic three-state futex mutex).

const FREE = 0;
const HELD = 1;
const CONTENDED = 2;
const SPINS = 100;

/** Takes the lock in `words[index]`. Ordering: an acquire; everything before the holder's `release` is visible. */
export function acquire(words: Int32Array, index: number): void {
  for (let spin = 0; spin < SPINS; spin++) {
    if (Atomics.compareExchange(words, index, FREE, HELD) === FREE) return;
  }
  while (Atomics.exchange(words, index, CONTENDED) !== FREE) Atomics.wait(words, index, CONTENDED);
}

/** Gives the lock in `words[index]` back. Ordering: a release. */
export function release(words: Int32Array, index: number): void {
  if (Atomics.exchange(words, index, FREE) === CONTENDED) Atomics.notify(words, index, 1);
}
