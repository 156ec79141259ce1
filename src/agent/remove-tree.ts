// Removes what a broken-off copy has made so far. Main thread.
//
// Not fs.rm: folders of a copy have the modes that their guest gave them, and in one that may not be written to nothing can be
// removed before that is changed. It is all ours, so nobody puts a link in the place of a folder meanwhile.

import { chmod, readdir, rmdir, unlink } from 'node:fs/promises';
import { constants } from 'node:os';

const { ENOENT, EISDIR } = constants.errno;

/** Does nothing when there is nothing. Rejects with what cannot be removed. */
export async function removeTree(path: Buffer): Promise<void> {
  try {
    await unlink(path);
    return;
  } catch (error) {
    const errno = errnoOf(error);
    if (errno === ENOENT) return;
    if (errno !== EISDIR) throw error;
  }
  await chmod(path, 0o700);
  for (const entry of await readdir(path, { encoding: 'buffer' })) {
    await removeTree(Buffer.concat([path, Buffer.from('/'), entry]));
  }
  await rmdir(path);
}

/** By its shape: Node's own errors may be of another realm. */
function errnoOf(error: unknown): number | undefined {
  if (typeof error !== 'object' || error === null || !('errno' in error)) return undefined;
  return typeof error.errno === 'number' ? -error.errno : undefined;
}
