// Writes a tree into an ext4 image without root: mkfs.ext4 makes an empty one, then debugfs, by a script of ours, makes each
// file in it, with its owner, mode and time.
//
// mkfs.ext4 -d would copy a folder, but a folder of this user has this user's owners and no devices; it takes a tar archive
// only since e2fsprogs 1.47.1. debugfs reads one command a line, so names with line breaks are refused. Times, UUIDs and hash
// seeds are given, and the order is that of the tree: the same tree gives the same image with the same e2fsprogs.

import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { createWriteStream } from 'node:fs';
import { open, symlink, writeFile } from 'node:fs/promises';
import { resolve } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { alignUp, formatBytes, KIB, MIB } from '../platform/units.js';
import { modeOf } from './cpio.js';
import { hostFailure, ImageError } from './errors.js';
import { shown } from './names.js';
import type { Spool } from './spool.js';
import { contentSize, type Inode, linkCounts, type Tree } from './tree.js';

const BLOCK = 4 * KIB;
const INODE = 256;
/** A target that is longer takes a block. */
const INLINE_TARGET = 59;
/** What ext4 has for itself: inodes 1 to 10. */
const OWN_INODES = 11;
const SMALLEST = 16 * MIB;

// What every Linux of the last ten years mounts, whatever the host's mke2fs.conf says.
const FEATURES =
  'none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,huge_file,' +
  'dir_nlink,extra_isize,metadata_csum';

const DEBIAN_PACKAGE = 'install e2fsprogs (Debian and Ubuntu: apt-get install e2fsprogs)';

export interface Ext4Options {
  /** Bytes; by default what the content takes, and room for more. */
  readonly size: number | undefined;
  readonly signal: AbortSignal | undefined;
  /** Where mkfs.ext4 and debugfs are looked for, as in PATH. */
  readonly toolPath: string | undefined;
}

/** Writes the image to `image`, which is in the spool. `output` is its name in errors. Throws ImageError. */
export async function writeExt4(
  tree: Tree,
  image: string,
  output: string,
  spool: Spool,
  options: Ext4Options,
): Promise<void> {
  const space = spaceOf(tree);
  const size = options.size ?? space.comfortable;
  if (size < space.least) {
    throw new ImageError(
      'no-space',
      output,
      `the content needs ${formatBytes(space.least)}, and the image is to have ${formatBytes(size)}`,
      `give it more (--size ${Math.ceil(space.comfortable / MIB)}M), or no size`,
    );
  }
  const script = spool.newPath();
  const hash = createHash('sha256');
  const lines = async function* (): AsyncGenerator<string> {
    for await (const line of debugfsScript(tree, spool, output)) {
      options.signal?.throwIfAborted();
      hash.update(line, 'latin1');
      yield line;
    }
  };
  await pipeline(lines(), createWriteStream(script, { encoding: 'latin1' }), { signal: options.signal });
  const digest = hash.digest();
  await makeSparse(image, size);
  const run = new Tools(output, spool.directory, options);
  const extended = `hash_seed=${uuid(digest.subarray(16))},root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0`;
  const journal = size < 256 * MIB ? 4 : size < 2048 * MIB ? 16 : 64;
  const fixed = ['-q', '-F', '-t', 'ext4', '-O', FEATURES, '-b', String(BLOCK), '-I', String(INODE), '-m', '0'];
  const given = ['-N', String(space.inodes), '-J', `size=${journal}`, '-U', uuid(digest), '-E', extended];
  await run.tool('mkfs.ext4', [...fixed, ...given, image]);
  await run.tool('debugfs', ['-w', '-f', script, image]);
  // debugfs says what goes wrong, but ends well: what nobody doubts is what e2fsck has looked through.
  await run.tool('e2fsck', ['-f', '-n', image]);
}

interface Space {
  /** Bytes below which the content does not fit. */
  readonly least: number;
  /** With a quarter to spare. */
  readonly comfortable: number;
  readonly inodes: number;
}

function spaceOf(tree: Tree): Space {
  let blocks = 0;
  let count = 0;
  for (const inode of new Set([...tree.entries()].map((entry) => entry.inode))) {
    count++;
    if (inode.kind === 'file') blocks += Math.ceil(contentSize(inode.content) / BLOCK);
    else if (inode.kind === 'symlink' && inode.target.length > INLINE_TARGET) blocks++;
    else if (inode.kind === 'directory') {
      // struct ext4_dir_entry_2: 8 bytes and the name, to a multiple of 4; no entry crosses a block.
      const names = [...inode.children.keys()].reduce((sum, name) => sum + 8 + alignUp(name.length, 4), 24);
      blocks += Math.ceil((names * 1.1) / BLOCK);
    }
  }
  const inodes = OWN_INODES + count + Math.max(256, count >> 2);
  const content = blocks * BLOCK + inodes * INODE;
  // Bitmaps, descriptors and their copies, blocks of extents: below 2 %; and the smallest journal.
  const least = Math.max(SMALLEST / 2, alignUp(content * 1.02 + 6 * MIB, MIB));
  return { least, comfortable: Math.max(SMALLEST, alignUp(least * 1.25 + 4 * MIB, MIB)), inodes };
}

async function makeSparse(image: string, size: number): Promise<void> {
  try {
    const file = await open(image, 'wx', 0o666);
    try {
      await file.truncate(size);
    } finally {
      await file.close();
    }
  } catch (error) {
    throw hostFailure(image, error);
  }
}

/** A UUID (RFC 9562, version 8) of 16 bytes. */
function uuid(bytes: Uint8Array): string {
  const copy = Buffer.from(bytes.subarray(0, 16));
  copy[6] = (copy[6] & 0x0f) | 0x80;
  copy[8] = (copy[8] & 0x3f) | 0x80;
  return copy.toString('hex').replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-');
}

async function* debugfsScript(tree: Tree, spool: Spool, output: string): AsyncGenerator<string> {
  const links = linkCounts(tree);
  /** The first name of each file that has several. */
  const first = new Map<Inode, string>();
  const later: string[] = [];
  let where = '';
  for (const { path, inode } of tree.entries()) {
    refuseLineBreaks(path, output);
    const full = quoted(`/${path}`);
    const parent = path.slice(0, Math.max(0, path.lastIndexOf('/')));
    const name = quoted(path.slice(path.lastIndexOf('/') + 1));
    // Names are made in the working directory: "mkdir /a" would make "a" there, too.
    if (path !== '' && parent !== where) yield `cd ${quoted(`/${parent}`)}\n`;
    if (path !== '') where = parent;
    const present = first.get(inode);
    if (present !== undefined) {
      yield `ln ${present} ${name}\n`;
      continue;
    }
    if (inode.kind !== 'directory') first.set(inode, full);
    switch (inode.kind) {
      case 'directory':
        // lost+found is there already, and so is the root.
        if (path !== '' && path !== 'lost+found') yield `mkdir ${name}\n`;
        break;
      case 'file':
        yield `write ${await nameInSpool(inode.content, spool)} ${name}\n`;
        break;
      case 'symlink':
        refuseLineBreaks(inode.target, output);
        yield `symlink ${name} ${quoted(inode.target)}\n`;
        break;
      case 'fifo':
        yield `mknod ${name} p\n`;
        break;
      case 'character':
      case 'block':
        yield `mknod ${name} ${inode.kind === 'block' ? 'b' : 'c'} ${inode.major} ${inode.minor}\n`;
        break;
    }
    const { uid, gid, mtime } = inode.attributes;
    const octal = modeOf(inode).toString(8);
    yield `sif ${full} mode 0${octal}\nsif ${full} uid ${uid}\nsif ${full} gid ${gid}\n`;
    const count = links.get(inode) ?? 1;
    if (count > 1) yield `sif ${full} links_count ${count}\n`;
    const times = ['mtime', 'ctime', 'atime', 'crtime'].map((time) => `sif ${full} ${time} @${mtime}\n`).join('');
    // A directory is changed by what is made in it.
    if (inode.kind === 'directory') later.push(times);
    else yield times;
  }
  yield* later;
}

/** A file in the spool with the bytes of `content`: its own, a new one, or a link to the user's. */
async function nameInSpool(content: Extract<Inode, { kind: 'file' }>['content'], spool: Spool): Promise<string> {
  if (content.kind === 'bytes') {
    const path = spool.newPath();
    await writeFile(path, content.bytes).catch((error: unknown) => {
      throw hostFailure(path, error);
    });
    return relativeName(path);
  }
  const path = content.path.toString('latin1');
  if (path.startsWith(`${spool.directory}/`)) return relativeName(path);
  // A link of ours, whose name needs no quotes, whatever the user's file is called.
  const link = spool.newPath();
  const target = typeof content.path === 'string' ? Buffer.from(resolve(content.path)) : absolute(content.path);
  await symlink(target, link).catch((error: unknown) => {
    throw hostFailure(link, error);
  });
  return relativeName(link);
}

function absolute(path: Buffer): Buffer {
  return path[0] === 0x2f ? path : Buffer.concat([Buffer.from(`${process.cwd()}/`), path]);
}

/** Its name alone: debugfs works in the spool, so that where that is does not matter to the script. */
function relativeName(path: string): string {
  return path.slice(path.lastIndexOf('/') + 1);
}

/** debugfs takes a line of at most 8191 bytes. */
const MAX_QUOTED = 7000;

function quoted(text: string): string {
  return `"${text.replaceAll('"', '""')}"`;
}

function refuseLineBreaks(text: string, output: string): void {
  if (!/[\n\r]/.test(text) && quoted(text).length <= MAX_QUOTED) return;
  const detail = `${shown(text)} has a line break in it, or too many quotes, which debugfs cannot be told`;
  throw new ImageError('bad-name', output, detail, 'rename it, or build an initramfs');
}

/** Runs programs of e2fsprogs. */
class Tools {
  private readonly output: string;
  private readonly directory: string;
  private readonly options: Ext4Options;

  constructor(output: string, directory: string, options: Ext4Options) {
    this.output = output;
    this.directory = directory;
    this.options = options;
  }

  /** Throws ImageError missing-tool, no-space or tool-failed. */
  async tool(name: string, args: readonly string[]): Promise<void> {
    const { signal, toolPath = `${process.env['PATH'] ?? ''}:/usr/local/sbin:/usr/sbin:/sbin` } = this.options;
    signal?.throwIfAborted();
    const env = {
      PATH: toolPath,
      LC_ALL: 'C',
      // 0 would mean now.
      E2FSPROGS_FAKE_TIME: '1',
      // No configuration: everything that matters is said.
      MKE2FS_CONFIG: '/dev/null',
    };
    // The first that it says on stderr is what matters: the rest follows from it.
    let said = '';
    const child = spawn(name, args, { cwd: this.directory, env, stdio: ['ignore', 'pipe', 'pipe'] });
    const stop = (): void => {
      child.kill('SIGKILL');
    };
    signal?.addEventListener('abort', stop);
    child.stderr.on('data', (bytes: Buffer) => (said = (said + bytes.toString('latin1')).slice(0, 4096)));
    child.stdout.resume();
    const status = await new Promise<number | NodeJS.Signals | null>((done, fail) => {
      child.on('error', fail);
      child.on('close', (code, how) => {
        done(code ?? how);
      });
    })
      .catch((error: unknown) => {
        throw this.notStarted(name, error);
      })
      .finally(() => signal?.removeEventListener('abort', stop));
    signal?.throwIfAborted();
    // Each of them introduces itself: "debugfs 1.47.0 (5-Feb-2023)".
    const complaints = said.split('\n').filter((line) => line !== '' && !/^\S+ \d+\.\d+\S* \(.*\)$/.test(line));
    const failed = status !== 0 || (name === 'debugfs' && complaints.length > 0);
    if (failed) throw this.failed(name, status, complaints);
  }

  private notStarted(name: string, error: unknown): unknown {
    const code = typeof error === 'object' && error !== null && 'code' in error ? error.code : undefined;
    if (code !== 'ENOENT') return error;
    const detail = `${name} is needed for an ext4 image, and is not installed`;
    return new ImageError('missing-tool', this.output, detail, DEBIAN_PACKAGE, error);
  }

  private failed(name: string, status: number | string | null, complaints: readonly string[]): ImageError {
    const text = complaints.slice(0, 3).join(' / ').slice(0, 300);
    if (/no space|could not allocate/i.test(complaints.join('\n'))) {
      const detail = `the content does not fit: ${text}`;
      return new ImageError('no-space', this.output, detail, 'give the image more (--size), or make room on the disk');
    }
    const detail = `${name} failed (${status ?? 'unknown'}): ${text}`;
    return new ImageError('tool-failed', this.output, detail, 'see what it says; try a newer e2fsprogs');
  }
}
