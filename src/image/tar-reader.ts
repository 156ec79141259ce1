// Reads a tar archive entry by entry, whoever made it: ustar, pax and GNU. Nothing is unpacked here, and no more of the
// archive is in memory than a header and a piece of content.
//
// Left out, each refused by name: sparse files, archives of several volumes, incremental dumps.

import type { ByteSource } from './byte-source.js';
import { PIECE } from './byte-source.js';
import { ImageError } from './errors.js';
import { shown } from './names.js';
import { badTar, BLOCK, isZeroBlock, parseHeader, parsePax, type PaxRecords, type RawHeader } from './tar-header.js';

export interface TarEntry {
  /** As it stands in the archive, one character for each byte. */
  readonly name: string;
  readonly kind: 'file' | 'hardlink' | 'symlink' | 'character' | 'block' | 'directory' | 'fifo';
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  /** Whole seconds since 1970; may be negative. */
  readonly mtime: number;
  /** Bytes of content; 0 for all but files. */
  readonly size: number;
  /** What a link points at, as it stands in the archive. */
  readonly linkName: string;
  readonly major: number;
  readonly minor: number;
  /** Extended attributes and access lists that came with it. */
  readonly xattrs: readonly string[];
}

const KINDS: ReadonlyMap<string, TarEntry['kind']> = new Map([
  ['0', 'file'],
  ['1', 'hardlink'],
  ['2', 'symlink'],
  ['3', 'character'],
  ['4', 'block'],
  ['5', 'directory'],
  ['6', 'fifo'],
  ['7', 'file'],
]);

const UNSUPPORTED: ReadonlyMap<string, string> = new Map([
  ['S', 'a sparse file'],
  ['M', 'a continuation of another volume'],
  ['D', 'an incremental dump'],
  ['V', 'a volume label'],
  ['N', 'an old long name'],
]);

/** A long name or pax header beyond this is no name. */
const MAX_EXTENSION = 1024 * 1024;

const REMADE = 'make or download it again';
const PLAIN = 'make the archive with plain tar options (tar --format=posix, no --sparse)';

export class TarReader {
  private readonly source: ByteSource;
  private readonly file: string;
  private globals: PaxRecords = new Map();
  /** Bytes of the current content, and of the padding behind it, that are still to come. */
  private left = 0;
  private padding = 0;
  private current = '';

  /** `file` names the archive in errors. */
  constructor(source: ByteSource, file: string) {
    this.source = source;
    this.file = file;
  }

  /** The next entry, whatever was read of the content of the last; undefined at the end. Throws ImageError. */
  async next(): Promise<TarEntry | undefined> {
    await this.leaveEntry();
    let longName: string | undefined;
    let longLink: string | undefined;
    let pax: PaxRecords = new Map();
    for (;;) {
      const at = this.source.position;
      const block = await this.source.read(BLOCK);
      // An archive ends with two blocks of zeroes. Some programs leave them out, and one that ends where an entry does
      // is whole as far as anybody can tell; digests say the rest.
      if (block.length === 0 || (block.length === BLOCK && isZeroBlock(block))) return undefined;
      if (block.length < BLOCK) throw this.truncated('a header');
      const header = parseHeader(block, this.file, at);
      switch (header.type) {
        case 'L':
          longName = withoutNul(await this.extension(header, at));
          break;
        case 'K':
          longLink = withoutNul(await this.extension(header, at));
          break;
        case 'x':
          pax = parsePax(await this.extension(header, at), this.file, at);
          break;
        case 'g':
          this.globals = new Map([...this.globals, ...parsePax(await this.extension(header, at), this.file, at)]);
          break;
        default: {
          const entry = this.entryOf(header, new Map([...this.globals, ...pax]), longName, longLink, at);
          this.left = entry.size;
          this.padding = -entry.size & (BLOCK - 1);
          this.current = entry.name;
          return entry;
        }
      }
    }
  }

  /** The content of the entry that `next` gave last. */
  async *content(): AsyncGenerator<Buffer> {
    while (this.left > 0) {
      const piece = await this.source.piece(Math.min(this.left, PIECE));
      if (piece.length === 0) throw this.truncated(`the content of ${shown(this.current)}`);
      this.left -= piece.length;
      yield piece;
    }
  }

  private async leaveEntry(): Promise<void> {
    const rest = this.left + this.padding;
    if ((await this.source.skip(rest)) < rest) throw this.truncated(`the content of ${shown(this.current)}`);
    this.left = 0;
    this.padding = 0;
  }

  private async extension(header: RawHeader, at: number): Promise<Buffer> {
    if (header.size < 0 || header.size > MAX_EXTENSION) {
      throw badTar(this.file, at, `an extended header claims ${header.size} bytes`);
    }
    const body = await this.source.read(header.size);
    const padding = -header.size & (BLOCK - 1);
    if (body.length < header.size || (await this.source.skip(padding)) < padding) {
      throw this.truncated('an extended header');
    }
    return body;
  }

  private entryOf(
    header: RawHeader,
    pax: PaxRecords,
    longName: string | undefined,
    longLink: string | undefined,
    at: number,
  ): TarEntry {
    const name = pax.get('path') ?? longName ?? header.name;
    const sparse = [...pax.keys()].some((key) => key.startsWith('GNU.sparse.'));
    const unsupported = sparse ? UNSUPPORTED.get('S') : UNSUPPORTED.get(header.type);
    if (unsupported !== undefined) {
      const detail = `the entry ${shown(name)} is ${unsupported}, which is not supported`;
      throw new ImageError('unsupported', this.file, detail, PLAIN);
    }
    // POSIX: what is not known is a regular file.
    const known = KINDS.get(header.type) ?? 'file';
    const kind = known === 'file' && header.type === '0' && name.endsWith('/') ? 'directory' : known;
    const size = kind === 'file' ? this.number(pax, 'size', header.size, at) : 0;
    if (size < 0 || !Number.isInteger(size))
      throw badTar(this.file, at, `the entry ${shown(name)} claims ${size} bytes`);
    const [uid, gid] = [this.number(pax, 'uid', header.uid, at), this.number(pax, 'gid', header.gid, at)];
    if (!isId(uid) || !isId(gid)) throw badTar(this.file, at, `the entry ${shown(name)} has the owner ${uid}:${gid}`);
    return {
      name,
      kind,
      mode: header.mode & 0o7777,
      uid,
      gid,
      mtime: Math.floor(this.number(pax, 'mtime', header.mtime, at)),
      size,
      linkName: pax.get('linkpath') ?? longLink ?? header.linkName,
      major: header.major,
      minor: header.minor,
      xattrs: [...pax.keys()].filter((key) => key.startsWith('SCHILY.xattr.') || key.startsWith('SCHILY.acl.')),
    };
  }

  private number(pax: PaxRecords, key: string, otherwise: number, at: number): number {
    const text = pax.get(key);
    if (text === undefined) return otherwise;
    const value = /^-?[0-9]{1,18}(\.[0-9]*)?$/.test(text) ? Number(text) : NaN;
    if (Number.isNaN(value) || Math.abs(value) > Number.MAX_SAFE_INTEGER) {
      throw badTar(this.file, at, `the extended ${key} is not a number`);
    }
    return value;
  }

  private truncated(what: string): ImageError {
    return new ImageError('truncated', this.file, `the archive ends in the middle of ${what}`, REMADE);
  }
}

function isId(value: number): boolean {
  return Number.isInteger(value) && value >= 0 && value < 0xffff_ffff;
}

function withoutNul(body: Buffer): string {
  const end = body.indexOf(0);
  return body.toString('latin1', 0, end < 0 ? body.length : end);
}
