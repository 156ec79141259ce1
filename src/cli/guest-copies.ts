// Copies to and from a guest for the command: final names, sizes, progress. Main thread.

import { lstat, readdir, stat } from 'node:fs/promises';
import { basename, join, posix } from 'node:path';
import type { GuestAgent } from '../agent/guest-agent.js';
import { CopyProgressLine, type ProgressStream } from './copy-progress.js';
import type { CopyPaths } from './guest-options.js';

export interface CopyContext {
  readonly agent: Pick<GuestAgent, 'copyIn' | 'copyOut'>;
  readonly stderr: ProgressStream;
  readonly quiet: boolean;
  readonly signal: AbortSignal;
}

/** Copies to the guest; a name of it that ends with a slash is a folder to copy into. Rejects with AgentError. */
export async function copyIntoGuest({ host, guest }: CopyPaths, context: CopyContext): Promise<void> {
  const { agent, signal } = context;
  const to = guest.endsWith('/') ? guest + basename(host) : guest;
  const total = context.quiet ? undefined : await sizeOf(host);
  await withProgress(`${basename(host)} -> guest:${to}`, total, context, (onProgress) =>
    agent.copyIn(withoutSlash(host), to, { signal, onProgress }),
  );
}

/** Copies from the guest; a folder of the host is copied into, as cp(1) does. Rejects with AgentError. */
export async function copyOutOfGuest({ host, guest }: CopyPaths, context: CopyContext): Promise<void> {
  const { agent, signal } = context;
  const name = posix.basename(guest);
  const isFolder = host.endsWith('/') || (await isDirectory(host));
  const to = isFolder && name !== '' ? join(host, name) : host;
  await withProgress(`guest:${guest} -> ${basename(to)}`, undefined, context, (onProgress) =>
    agent.copyOut(withoutSlash(guest), to, { signal, onProgress }),
  );
}

async function withProgress(
  label: string,
  total: number | undefined,
  { stderr, quiet }: CopyContext,
  copy: (onProgress: CopyProgressLine['show']) => Promise<void>,
): Promise<void> {
  const line = new CopyProgressLine(stderr, label, total);
  try {
    await copy(quiet ? () => undefined : line.show);
  } finally {
    line.clear();
  }
}

/** The bytes of a file or of all files in a folder; undefined where that cannot be said. */
async function sizeOf(path: string): Promise<number | undefined> {
  try {
    const status = await lstat(path);
    if (!status.isDirectory()) return status.size;
    let sum = 0;
    for (const entry of await readdir(path, { withFileTypes: true, recursive: true })) {
      if (entry.isFile()) sum += (await lstat(join(entry.parentPath, entry.name))).size;
    }
    return sum;
  } catch {
    // The copy says what is wrong.
    return undefined;
  }
}

async function isDirectory(path: string): Promise<boolean> {
  return stat(path).then(
    (status) => status.isDirectory(),
    () => false,
  );
}

function withoutSlash(path: string): string {
  return path.length > 1 && path.endsWith('/') ? path.slice(0, -1) : path;
}
