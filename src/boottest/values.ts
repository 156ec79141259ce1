// The small notations of a spec: durations and patterns. Main thread.

/** `90`, `90s`, `1.5m`, `500ms`: milliseconds; undefined when it is none. A number alone is seconds. */
export function parseDuration(value: unknown): number | undefined {
  const text = typeof value === 'number' ? String(value) : value;
  const match = typeof text === 'string' ? /^(\d+(?:\.\d+)?)(ms|s|m)?$/.exec(text) : null;
  if (match === null) return undefined;
  const milliseconds = Math.round(Number(match[1]) * unitOf(match.at(2)));
  return milliseconds >= 1 && milliseconds <= MAX_DURATION_MS ? milliseconds : undefined;
}

function unitOf(suffix = 's'): number {
  return UNITS[suffix];
}

const UNITS: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000 };
/** A day. */
const MAX_DURATION_MS = 86_400_000;

/** `/.../flags` is a regular expression, anything else is text; undefined for an expression that is none. */
export function parsePattern(text: string): string | RegExp | undefined {
  const match = /^\/(.+)\/([a-z]*)$/s.exec(text);
  if (match === null) return text === '' ? undefined : text;
  try {
    return new RegExp(match[1], match[2]);
  } catch {
    return undefined;
  }
}

/** Whether `pattern` is in `text`. */
export function matches(pattern: string | RegExp, text: string): boolean {
  return typeof pattern === 'string' ? text.includes(pattern) : text.search(pattern) >= 0;
}

/** Milliseconds for a person. */
export function showDuration(milliseconds: number): string {
  if (milliseconds < 1000) return `${milliseconds} ms`;
  return `${Number((milliseconds / 1000).toFixed(1))} s`;
}
