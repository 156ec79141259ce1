// Puts a layer of a container image, a tar archive, over what a tree has already.
//
// Specification: OCI image-spec, layer.md: whiteouts (".wh.NAME"), opaque directories (".wh..wh..opq"); names beginning with
// ".wh." are no files. Left out: extended attributes and access lists, which are counted.

import type { Budget } from './budget.js';
import { ImageError } from './errors.js';
import { shown, splitPath } from './names.js';
import type { Spool } from './spool.js';
import type { TarEntry, TarReader } from './tar-reader.js';
import { type Attributes, directory, type Tree } from './tree.js';

const WHITEOUT = '.wh.';
const OPAQUE = '.wh..wh..opq';
/** What Linux has; more would be another number in the image. */
const MAX_MAJOR = 0xfff;
const MAX_MINOR = 0xf_ffff;
/** What every file system and archive here can say: seconds until 2038. */
const MAX_TIME = 0x7fff_ffff;

const UNTRUSTED = 'make the archive again, from a source that you trust';

/** What to do with device nodes: `refuse` them with ImageError `device-node`, or `keep` them. */
export type DevicePolicy = 'refuse' | 'keep';

export interface LayerContext {
  readonly tree: Tree;
  readonly spool: Spool;
  readonly budget: Budget;
  readonly devices: DevicePolicy;
  readonly signal: AbortSignal | undefined;
  /** Called for entries that came with extended attributes, which are not kept. */
  readonly onXattrs: () => void;
}

/** Puts all entries of `reader` into the tree, as a new layer. `file` is the archive in errors. Throws ImageError. */
export async function applyLayer(reader: TarReader, file: string, context: LayerContext): Promise<void> {
  const { tree, budget, signal, onXattrs } = context;
  tree.beginLayer();
  for (let entry = await reader.next(); entry !== undefined; entry = await reader.next()) {
    signal?.throwIfAborted();
    budget.takeEntry(file);
    const path = splitPath(entry.name, file);
    const name = path.at(-1) ?? '';
    if (name === OPAQUE) tree.removeLowerIn(path.slice(0, -1), file);
    else if (name.startsWith(WHITEOUT)) applyWhiteout(path, name, file, tree);
    else await putEntry(entry, path, reader, file, context);
    if (entry.xattrs.length > 0) onXattrs();
  }
}

function applyWhiteout(path: readonly string[], name: string, file: string, tree: Tree): void {
  const removed = name.slice(WHITEOUT.length);
  // ".wh..wh." is what the storage driver of old keeps for itself.
  if (removed.startsWith(WHITEOUT)) return;
  if (removed === '' || removed === '.' || removed === '..') {
    const detail = `the entry ${shown(path.join('/'))} removes nothing that has a name`;
    throw new ImageError('path-traversal', file, detail, UNTRUSTED);
  }
  tree.removeLower([...path.slice(0, -1), removed], file);
}

async function putEntry(
  entry: TarEntry,
  path: readonly string[],
  reader: TarReader,
  file: string,
  { tree, spool, budget, devices }: LayerContext,
): Promise<void> {
  const attributes = attributesOf(entry);
  switch (entry.kind) {
    case 'directory':
      tree.put(path, directory(attributes), file);
      return;
    case 'file': {
      // Before a byte of it is read, for what a header claims.
      budget.takeBytes(entry.size, file);
      tree.put(path, { kind: 'file', attributes, content: await spool.keep(reader.content()) }, file);
      return;
    }
    case 'symlink':
      if (entry.linkName === '' || entry.linkName.length > 4095 || entry.linkName.includes('\0')) {
        throw new ImageError(
          'bad-link',
          file,
          `the symbolic link ${shown(entry.name)} has no usable target`,
          UNTRUSTED,
        );
      }
      tree.put(path, { kind: 'symlink', attributes, target: entry.linkName }, file);
      return;
    case 'hardlink': {
      const target = tree.find(splitPath(entry.linkName, file), file);
      if (target === undefined || target.kind === 'directory') {
        const what = target === undefined ? 'is not in the image' : 'is a directory';
        const detail = `the hard link ${shown(entry.name)} is to ${shown(entry.linkName)}, which ${what}`;
        throw new ImageError('bad-link', file, detail, UNTRUSTED);
      }
      tree.put(path, target, file);
      return;
    }
    case 'fifo':
      tree.put(path, { kind: 'fifo', attributes }, file);
      return;
    case 'character':
    case 'block': {
      const { kind, major, minor } = entry;
      if (devices === 'refuse') throw deviceRefused(entry.name, file);
      if (!(major >= 0 && major <= MAX_MAJOR && minor >= 0 && minor <= MAX_MINOR)) {
        throw new ImageError('bad-tar', file, `${shown(entry.name)} is device ${major}:${minor}`, UNTRUSTED);
      }
      tree.put(path, { kind, attributes, major, minor }, file);
    }
  }
}

export function deviceRefused(name: string, file: string): ImageError {
  return new ImageError(
    'device-node',
    file,
    `${shown(name)} is a device node`,
    'guests make theirs with devtmpfs; to have it in the image, allow it (--devices keep, devices: keep)',
  );
}

function attributesOf({ mode, uid, gid, mtime }: TarEntry): Attributes {
  return { mode, uid, gid, mtime: imageTime(mtime) };
}

/** A time as an image can hold it. */
export function imageTime(seconds: number): number {
  return Math.min(Math.max(0, Math.floor(seconds)), MAX_TIME);
}
