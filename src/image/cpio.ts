// Writes a tree as a cpio archive, the format of an initramfs: "new ASCII" (newc).
//
// Specification: Documentation/driver-api/early-userspace/buffer-format.rst of Linux. Inode numbers count up, device numbers
// are 0, names are sorted: the same tree gives the same bytes.

import { contentPieces } from './content.js';
import { ImageError } from './errors.js';
import { shown } from './names.js';
import { contentSize, type Inode, linkCounts, type Tree } from './tree.js';

const TRAILER = 'TRAILER!!!';
/** Sizes have eight hexadecimal digits. */
const MAX_SIZE = 0xffff_ffff;

const FILE_TYPE: Readonly<Record<Inode['kind'], number>> = {
  fifo: 0o010000,
  character: 0o020000,
  directory: 0o040000,
  block: 0o060000,
  file: 0o100000,
  symlink: 0o120000,
};

/** The st_mode of `inode`: its type and its permission bits. */
export function modeOf(inode: Inode): number {
  return FILE_TYPE[inode.kind] | inode.attributes.mode;
}

/** The archive, piece by piece. Throws ImageError; `file` is the output in errors. */
export async function* cpioArchive(tree: Tree, file: string): AsyncGenerator<Buffer> {
  const links = linkCounts(tree);
  const numbers = new Map<Inode, number>();
  const seen = new Map<Inode, number>();
  for (const { path, inode } of tree.entries()) {
    const name = path === '' ? '.' : path;
    const number = numbers.get(inode) ?? numbers.size + 1;
    numbers.set(inode, number);
    const nlink = inode.kind === 'directory' ? 2 : (links.get(inode) ?? 1);
    const count = (seen.get(inode) ?? 0) + 1;
    if (nlink > 1) seen.set(inode, count);
    if (inode.kind === 'symlink') {
      const target = Buffer.from(inode.target, 'latin1');
      yield header(inode, number, nlink, target.length, name);
      yield padded(target);
    } else if (inode.kind === 'file') {
      const size = contentSize(inode.content);
      if (size > MAX_SIZE) {
        const detail = `${shown(path)} has ${size} bytes, and an initramfs takes files up to 4 GiB`;
        throw new ImageError('too-large', file, detail, 'build an ext4 image, or leave the file out');
      }
      // As GNU cpio has it, the last of several names brings the content.
      const isLast = count === nlink;
      yield header(inode, number, nlink, isLast ? size : 0, name);
      if (isLast) {
        yield* contentPieces(inode.content);
        if ((size & 3) !== 0) yield Buffer.alloc(-size & 3);
      }
    } else yield header(inode, number, nlink, 0, name);
  }
  yield entry([0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0], TRAILER);
}

function header(inode: Inode, number: number, nlink: number, size: number, name: string): Buffer {
  const { uid, gid, mtime } = inode.attributes;
  const isDevice = inode.kind === 'character' || inode.kind === 'block';
  const [major, minor] = isDevice ? [inode.major, inode.minor] : [0, 0];
  return entry([number, modeOf(inode), uid, gid, nlink, mtime, size, 0, 0, major, minor], name);
}

/*
 * struct cpio_newc_header, every field after the magic eight hexadecimal digits:
 *   magic "070701", ino, mode, uid, gid, nlink, mtime, filesize, maj, min, rmaj, rmin, namesize, chksum;   // 110
 * then the name with its NUL and the content, each padded to a multiple of 4 from the start of the archive.
 */
function entry(fields: readonly number[], name: string): Buffer {
  const all = [...fields, name.length + 1, 0];
  const text = `070701${all.map((field) => field.toString(16).padStart(8, '0')).join('')}${name}\0`;
  return padded(Buffer.from(text, 'latin1'));
}

function padded(bytes: Buffer): Buffer {
  return (bytes.length & 3) === 0 ? bytes : Buffer.concat([bytes, Buffer.alloc(-bytes.length & 3)]);
}
