// Puts a folder of the host into a tree. Nothing is followed: symbolic links stay links, whatever they point at.
//
// Left out: sockets, which are nothing without their process; extended attributes.

import { lstat, access, constants, readdir, readlink } from 'node:fs/promises';
import { hostFailure, ImageError } from './errors.js';
import { deviceRefused, imageTime, type LayerContext } from './layer.js';
import { nameToHost } from './names.js';
import { type Attributes, directory, type Inode } from './tree.js';

export interface FolderContext extends Omit<LayerContext, 'onXattrs'> {
  /** Who owns everything in the folder, instead of who does on the host. */
  readonly owner: { readonly uid: number; readonly gid: number } | undefined;
  /** Files of the host that are not for the image, by `fileKey`: the output, and what it is made in. */
  readonly without: ReadonlySet<string>;
  /** Hears of what was left out. */
  readonly note: (text: string) => void;
}

type Stats = Awaited<ReturnType<typeof lstat>>;

/** What tells a file of the host from all others. */
export function fileKey({ dev, ino }: Stats): string {
  return `${dev}:${ino}`;
}

/** Puts what is in `folder` into the tree, as a new layer. Throws ImageError. */
export async function addFolder(folder: string, context: FolderContext): Promise<void> {
  context.tree.beginLayer();
  const stat = await statOf(Buffer.from(folder), folder);
  if (!stat.isDirectory()) {
    throw new ImageError(
      'wrong-kind',
      folder,
      'it is not a folder',
      'name a folder (a symbolic link with a "/" after it)',
    );
  }
  await addDirectory(Buffer.from(folder), stat, [], folder, context, new Map());
}

async function addDirectory(
  host: Buffer,
  stat: Stats,
  path: readonly string[],
  folder: string,
  context: FolderContext,
  /** Files with several names, by `fileKey`. */
  linked: Map<string, Inode>,
): Promise<void> {
  const { tree, budget, signal, without, note } = context;
  tree.put(path, directory(attributesOf(stat, context)), folder);
  for (const name of (await listOf(host)).sort()) {
    signal?.throwIfAborted();
    budget.takeEntry(folder);
    const child = Buffer.concat([host, Buffer.from('/'), Buffer.from(name, 'latin1')]);
    const childStat = await statOf(child, child.toString());
    const childPath = [...path, name];
    if (without.has(fileKey(childStat))) continue;
    if (childStat.isDirectory()) {
      await addDirectory(child, childStat, childPath, folder, context, linked);
      continue;
    }
    if (childStat.isSocket()) {
      note(`${nameToHost(childPath.join('/'))} is a socket and was left out`);
      continue;
    }
    const key = fileKey(childStat);
    const inode = linked.get(key) ?? (await inodeOf(child, childStat, childPath.join('/'), folder, context));
    if (childStat.nlink > 1) linked.set(key, inode);
    tree.put(childPath, inode, folder);
  }
}

async function inodeOf(
  host: Buffer,
  stat: Stats,
  name: string,
  folder: string,
  context: FolderContext,
): Promise<Inode> {
  const attributes = attributesOf(stat, context);
  if (stat.isSymbolicLink()) {
    const target = await readlink(host, { encoding: 'latin1' }).catch((error: unknown) => {
      throw hostFailure(host.toString(), error);
    });
    return { kind: 'symlink', attributes, target };
  }
  if (stat.isFIFO()) return { kind: 'fifo', attributes };
  if (stat.isFile()) {
    context.budget.takeBytes(Number(stat.size), folder);
    // Now rather than when half of the image is written.
    await access(host, constants.R_OK).catch((error: unknown) => {
      throw hostFailure(host.toString(), error);
    });
    return { kind: 'file', attributes, content: { kind: 'host', path: host, size: Number(stat.size) } };
  }
  if (context.devices === 'refuse') throw deviceRefused(name, folder);
  // makedev of glibc, the other way round.
  const device = BigInt(stat.rdev);
  const major = Number(((device >> 8n) & 0xfffn) | ((device >> 32n) & ~0xfffn));
  const minor = Number((device & 0xffn) | ((device >> 12n) & ~0xffn & 0xffff_ffffn));
  return { kind: stat.isBlockDevice() ? 'block' : 'character', attributes, major, minor };
}

function attributesOf(stat: Stats, { owner }: FolderContext): Attributes {
  const { uid, gid } = owner ?? { uid: Number(stat.uid), gid: Number(stat.gid) };
  return { mode: Number(stat.mode) & 0o7777, uid, gid, mtime: imageTime(Number(stat.mtimeMs) / 1000) };
}

async function statOf(path: Buffer, name: string): Promise<Stats> {
  try {
    return await lstat(path);
  } catch (error) {
    throw hostFailure(name, error);
  }
}

async function listOf(path: Buffer): Promise<string[]> {
  try {
    return await readdir(path, { encoding: 'latin1' });
  } catch (error) {
    throw hostFailure(path.toString(), error);
  }
}
