// What counts as absent in a configuration.

/** A copy of `value` without what is null or undefined in its objects. */
export function withoutAbsent(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(withoutAbsent);
  if (typeof value !== 'object' || value === null) return value;
  const result = {};
  for (const [key, inner] of Object.entries(value)) {
    if (inner !== undefined && inner !== null) defineField(result, key, withoutAbsent(inner));
  }
  return result;
}

/** An assignment would take `__proto__` for more than the name of a field. */
export function defineField(target: object, key: string, value: unknown): void {
  Object.defineProperty(target, key, { value, enumerable: true, configurable: true, writable: true });
}
