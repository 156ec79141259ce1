// What a measurement looks like: the data model of Prometheus, as plain data.

/** One value, told apart from others of its family by labels. */
export interface MetricSample {
  /** By name. Empty where there is one value. */
  readonly labels: Readonly<Record<string, string>>;
  /** In the unit that the family's name ends in, if it has one. */
  readonly value: number;
}

/** All values of one name. */
export interface MetricFamily {
  /** Counters end in `_total`; what has a unit says it: `_bytes`, `_seconds`. */
  readonly name: string;
  /** What is measured, as a sentence. */
  readonly help: string;
  /** A counter only grows, until its VM is gone; a gauge goes up and down. */
  readonly type: 'counter' | 'gauge';
  /** None where there is nothing to tell at present. */
  readonly samples: readonly MetricSample[];
}

export function gauge(name: string, help: string, samples: readonly MetricSample[]): MetricFamily {
  return { name, help, type: 'gauge', samples };
}

export function counter(name: string, help: string, samples: readonly MetricSample[]): MetricFamily {
  return { name, help, type: 'counter', samples };
}

/** A family of one value, which needs no labels. */
export function single(value: number): readonly MetricSample[] {
  return [{ labels: {}, value }];
}
