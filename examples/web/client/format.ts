// Numbers as people read them. Browser; no DOM in here.

const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];

/** `1.50 GiB`: three significant digits, or `1 GiB` when that is all. */
export function formatBytes(bytes: number): string {
  let value = bytes;
  let unit = 0;
  for (; value >= 999.5 && unit < UNITS.length - 1; unit++) value /= 1024;
  const digits = unit === 0 || Number.isInteger(value) || value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2;
  return `${value.toFixed(digits)} ${UNITS[unit]}`;
}

export function formatRate(bytesPerSecond: number): string {
  return `${formatBytes(bytesPerSecond)}/s`;
}

export function formatSeconds(milliseconds: number): string {
  return `${(milliseconds / 1000).toFixed(milliseconds < 10_000 ? 1 : 0)} s`;
}

/** The end of an axis that reaches `value`: 1, 2 or 5 times a power of two of its unit, at least 1 KiB. */
export function niceCeiling(value: number): number {
  let unit = 1024;
  while (value > unit * 1024) unit *= 1024;
  for (let decade = 1; ; decade *= 10) {
    for (const step of [1, 2, 5]) if (step * decade * unit >= value) return step * decade * unit;
  }
}
