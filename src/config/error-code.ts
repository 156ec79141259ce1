// The errno name of an error thrown by Node. By shape, not by class: errors of Node's own modules are of another realm
// where a program runs in a vm context, as it does under jest.

/** `ENOENT` and the like; undefined for what has none. */
export function errorCode(error: unknown): string | undefined {
  if (typeof error !== 'object' || error === null || !('code' in error)) return undefined;
  return typeof error.code === 'string' ? error.code : undefined;
}
