// What a measurement looks like: the data model of Prometheus, as plain data.

/** One value, told apart from others of its family by labels. */
export interface MetricSample {
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

/** All values of one name. */
export interface MetricFamily {
  /** Counters end in `_total`; what has a unit says it: `_bytes`, `_seconds`. */
  readonly name: string;
  readonly help: string;
  /** A counter only grows, until its VM is gone; a gauge goes up and down. */
  readonly type: 'counter' | 'gauge';
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
