// Random numbers for generated tests: fast, and the same again from the same seed.
//
// Every case of a test has a seed of its own (the run's seed plus the case's number), so a case that failed is run
// again by itself: TSVMM_FUZZ_SEED=<its seed> TSVMM_FUZZ_CASES=1.

// Jest gives tests a global object that is slow to look things up in, and these are called millions of times.
const { ceil, floor, imul, log2, min } = Math;

/** xorshift128 of 32-bit words, seeded through splitmix32 so that neighbouring seeds have nothing in common. */
export class Random {
  private a: number;
  private b: number;
  private c: number;
  private d: number;

  constructor(seed: number) {
    let state = seed | 0;
    const next = (): number => {
      state = (state + 0x9e37_79b9) | 0;
      let z = imul(state ^ (state >>> 16), 0x21f0_aaad);
      z = imul(z ^ (z >>> 15), 0x735a_2d97);
      return z ^ (z >>> 15);
    };
    this.a = next();
    this.b = next();
    this.c = next();
    this.d = next() | 1; // All four must not be 0.
  }

  /** 32 random bits, unsigned. */
  bits(): number {
    let t = this.d;
    this.d = this.c;
    this.c = this.b;
    this.b = this.a;
    t ^= t << 11;
    t ^= t >>> 8;
    this.a = t ^ this.a ^ (this.a >>> 19);
    return this.a >>> 0;
  }

  /** An integer in [0, bound), where `bound` is at most 2^32. */
  below(bound: number): number {
    return floor((this.bits() / 0x1_0000_0000) * bound);
  }

  /** An integer in [low, high]. */
  between(low: number, high: number): number {
    return low + this.below(high - low + 1);
  }

  /** True once in `n` times. */
  oneIn(n: number): boolean {
    return this.below(n) === 0;
  }

  pick<T>(items: readonly T[]): T {
    return items[this.below(items.length)];
  }

  /** An integer in [1, limit] whose magnitude, not its value, is evenly spread: small ones are as likely as large. */
  size(limit: number): number {
    return min(limit, 1 + this.below(2 ** this.between(0, ceil(log2(limit)))));
  }
}

/** How a generated test is told what to run. */
export interface FuzzRun {
  readonly seed: number;
  readonly cases: number;
}

/**
 * The seed and the number of cases of this run: from TSVMM_FUZZ_SEED and TSVMM_FUZZ_CASES, else random and
 * `defaultCases`.
 */
export function fuzzRun(defaultCases: number): FuzzRun {
  const { TSVMM_FUZZ_SEED: seed, TSVMM_FUZZ_CASES: cases } = process.env;
  return {
    seed: (seed === undefined ? Math.floor(Math.random() * 0x1_0000_0000) : Number(seed)) >>> 0,
    cases: cases === undefined ? defaultCases : Number(cases),
  };
}

/**
 * Runs `body` once for every case, each with random numbers of its own; an exception comes back with the seed that
 * brings it about again. The seed of the run is printed in any case: a hang or a crash must be repeatable, too.
 */
export function forEachCase(name: string, run: FuzzRun, body: (random: Random, index: number) => void): void {
  process.stdout.write(`${name}: ${run.cases} cases, TSVMM_FUZZ_SEED=${run.seed}\n`);
  for (let index = 0; index < run.cases; index++) {
    const seed = (run.seed + index) >>> 0;
    try {
      body(new Random(seed), index);
    } catch (error) {
      throw new Error(`${name}: case ${index} failed; again: TSVMM_FUZZ_SEED=${seed} TSVMM_FUZZ_CASES=1`, {
        cause: error,
      });
    }
  }
}
