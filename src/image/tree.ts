// The files of an image before it is written: names, attributes, and where each content is. No entry of an archive ever
// becomes a path of the host: paths are followed here, inside the tree, symbolic links included, so there is nothing that
// a hostile archive could reach.
//
// Layers (OCI image-spec, layer.md): later ones replace what earlier ones put; a whiteout removes what came in an earlier
// layer, and nothing of its own, wherever in the layer it stands.

import { ImageError } from './errors.js';
import { shown } from './names.js';

/** Where the bytes of a file are: in a file of the host that is ours or the user's, or here. */
export type Content =
  | { readonly kind: 'host'; readonly path: string | Buffer; readonly size: number }
  | { readonly kind: 'bytes'; readonly bytes: Uint8Array };

/** Who owns a file, what it may be used for, when it was changed. */
export interface Attributes {
  /** The permission bits with setuid, setgid and sticky: at most 0o7777. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  /** Whole seconds since 1970. */
  readonly mtime: number;
}

export type Inode = Directory | RegularFile | SymbolicLink | DeviceNode | Fifo;

export interface Directory {
  readonly kind: 'directory';
  attributes: Attributes;
  readonly children: Map<string, DirectoryEntry>;
}
export interface RegularFile {
  readonly kind: 'file';
  attributes: Attributes;
  readonly content: Content;
}
export interface SymbolicLink {
  readonly kind: 'symlink';
  attributes: Attributes;
  readonly target: string;
}
export interface DeviceNode {
  readonly kind: 'character' | 'block';
  attributes: Attributes;
  readonly major: number;
  readonly minor: number;
}
export interface Fifo {
  readonly kind: 'fifo';
  attributes: Attributes;
}

interface DirectoryEntry {
  readonly inode: Inode;
  /** The layer that put it there, or, for a directory, that named it last. */
  readonly layer: number;
}

/** A name in the tree and what it stands for. */
export interface TreeEntry {
  /** Path without a leading slash; empty for the root. */
  readonly path: string;
  readonly inode: Inode;
}

/** As many symbolic links as Linux follows in one path. */
const MAX_LINKS = 40;

/** Attributes of directories that nothing names: those above a file, and the root. */
const IMPLIED: Attributes = { mode: 0o755, uid: 0, gid: 0, mtime: 0 };

const UNTRUSTED = 'make the archive again, from a source that you trust';

export function contentSize(content: Content): number {
  return content.kind === 'host' ? content.size : content.bytes.length;
}

export class Tree {
  readonly root: Directory = directory(IMPLIED);
  private layer = 0;

  /** What is put from here on is over all that is there. */
  beginLayer(): void {
    this.layer++;
  }

  /**
   * Puts `inode` at `path`, making the directories above it. A directory over a directory gives it attributes; anything else
   * replaces what is there. `file` is where the entry comes from. Throws ImageError.
   */
  put(path: readonly string[], inode: Inode, file: string): void {
    const name = path.at(-1);
    if (name === undefined) {
      if (inode.kind !== 'directory') {
        throw new ImageError('bad-name', file, 'the root of the image is to be something else', UNTRUSTED);
      }
      this.root.attributes = inode.attributes;
      return;
    }
    const parent = this.parentOf(path, file, true);
    const present = parent.children.get(name)?.inode;
    if (present?.kind === 'directory' && inode.kind === 'directory') {
      present.attributes = inode.attributes;
      parent.children.set(name, { inode: present, layer: this.layer });
    } else parent.children.set(name, { inode, layer: this.layer });
  }

  /** What is at `path`, following symbolic links but the last; undefined for nothing. Throws ImageError. */
  find(path: readonly string[], file: string): Inode | undefined {
    const name = path.at(-1);
    return name === undefined ? this.root : this.parentOf(path, file, false)?.children.get(name)?.inode;
  }

  /** Removes what earlier layers have at `path`. */
  removeLower(path: readonly string[], file: string): void {
    const name = path.at(-1);
    const parent = this.parentOf(path, file, false);
    if (name !== undefined && parent !== undefined) this.dropLower(parent, name);
  }

  /** Removes what earlier layers have in the directory at `path`. */
  removeLowerIn(path: readonly string[], file: string): void {
    const inode = this.parentOf([...path, ''], file, false);
    for (const name of [...(inode?.children.keys() ?? [])]) if (inode !== undefined) this.dropLower(inode, name);
  }

  /** Every entry, each directory before what is in it, in the order of the names' bytes. */
  *entries(): Generator<TreeEntry> {
    yield* walk('', this.root);
  }

  private dropLower(parent: Directory, name: string): void {
    const entry = parent.children.get(name);
    if (entry === undefined) return;
    const { inode, layer } = entry;
    if (inode.kind === 'directory') {
      for (const child of [...inode.children.keys()]) this.dropLower(inode, child);
      // What this layer put into it keeps it.
      if (inode.children.size > 0) return;
    }
    if (layer < this.layer) parent.children.delete(name);
  }

  private parentOf(path: readonly string[], file: string, create: true): Directory;
  private parentOf(path: readonly string[], file: string, create: boolean): Directory | undefined;
  private parentOf(path: readonly string[], file: string, create: boolean): Directory | undefined {
    // What is still to be walked, last first; and the directories above where the walk stands.
    const rest = path.slice(0, -1).reverse();
    const above: Directory[] = [];
    let here = this.root;
    let links = 0;
    for (let name = rest.pop(); name !== undefined; name = rest.pop()) {
      if (name === '' || name === '.') continue;
      if (name === '..') {
        const up = above.pop();
        if (up === undefined) {
          const detail = `the entry ${shown(path.join('/'))} goes through a symbolic link that leads out of the image`;
          throw new ImageError('symlink-escape', file, detail, UNTRUSTED);
        }
        here = up;
        continue;
      }
      const inode = here.children.get(name)?.inode;
      if (inode?.kind === 'symlink') {
        if (++links > MAX_LINKS) {
          const detail = `the entry ${shown(path.join('/'))} goes through symbolic links without an end`;
          throw new ImageError('bad-link', file, detail, UNTRUSTED);
        }
        if (inode.target.startsWith('/')) {
          here = this.root;
          above.length = 0;
        }
        rest.push(...inode.target.split('/').reverse());
        continue;
      }
      if (inode !== undefined && inode.kind !== 'directory') {
        if (!create) return undefined;
        const detail = `the entry ${shown(path.join('/'))} lies below ${shown(name)}, which is no directory`;
        throw new ImageError('bad-name', file, detail, UNTRUSTED);
      }
      if (inode === undefined && !create) return undefined;
      const next = inode ?? directory(IMPLIED);
      if (inode === undefined) here.children.set(name, { inode: next, layer: this.layer });
      above.push(here);
      here = next;
    }
    return here;
  }
}

export function directory(attributes: Attributes): Directory {
  return { kind: 'directory', attributes, children: new Map() };
}

function* walk(path: string, inode: Inode): Generator<TreeEntry> {
  yield { path, inode };
  if (inode.kind !== 'directory') return;
  const names = [...inode.children.keys()].sort();
  for (const name of names) {
    const child = inode.children.get(name);
    if (child !== undefined) yield* walk(path === '' ? name : `${path}/${name}`, child.inode);
  }
}

/** How often each file is in the tree: more than once for hard links. Directories are not counted. */
export function linkCounts(tree: Tree): Map<Inode, number> {
  const counts = new Map<Inode, number>();
  for (const { inode } of tree.entries()) {
    if (inode.kind !== 'directory') counts.set(inode, (counts.get(inode) ?? 0) + 1);
  }
  return counts;
}
