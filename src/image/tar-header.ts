// The blocks of a tar archive: header fields, and the records of pax headers. Everything in them is checked here.
//
// Specification: POSIX.1-2017, pax, "ustar Interchange Format" and "pax Header Block"; GNU tar's manual, "Basic Tar Format",
// for its long names and its numbers in base 256.

import { ImageError } from './errors.js';

export const BLOCK = 512;

/*
 * struct posix_header {
 *   char name[100];      // 0
 *   char mode[8];        // 100
 *   char uid[8];         // 108
 *   char gid[8];         // 116
 *   char size[12];       // 124
 *   char mtime[12];      // 136
 *   char chksum[8];      // 148
 *   char typeflag;       // 156
 *   char linkname[100];  // 157
 *   char magic[6];       // 257: "ustar\0"; GNU: "ustar " and " \0" after it
 *   char version[2];     // 263
 *   char uname[32];      // 265
 *   char gname[32];      // 297
 *   char devmajor[8];    // 329
 *   char devminor[8];    // 337
 *   char prefix[155];    // 345; not in GNU's
 * };                     // 500
 */
const FIELD = {
  NAME: [0, 100],
  MODE: [100, 8],
  UID: [108, 8],
  GID: [116, 8],
  SIZE: [124, 12],
  MTIME: [136, 12],
  CHECKSUM: [148, 8],
  LINK_NAME: [157, 100],
  MAGIC: [257, 6],
  MAJOR: [329, 8],
  MINOR: [337, 8],
  PREFIX: [345, 155],
} as const;
const TYPE_FLAG = 156;

/** A header block as it stands, before longer names and numbers from others are put into it. */
export interface RawHeader {
  readonly name: string;
  readonly linkName: string;
  /** The type flag: `0`, `5`, `x`; a NUL is `0`. */
  readonly type: string;
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly size: number;
  readonly mtime: number;
  readonly major: number;
  readonly minor: number;
}

const REMADE = 'make or download it again';

export function badTar(file: string, at: number, detail: string): ImageError {
  return new ImageError('bad-tar', file, `${detail}, in the tar header at byte ${at}`, REMADE);
}

export function isZeroBlock(block: Uint8Array): boolean {
  return block.every((byte) => byte === 0);
}

/** Reads the header block at byte `at` of `file`. Throws ImageError bad-tar. */
export function parseHeader(block: Buffer, file: string, at: number): RawHeader {
  const number = (field: readonly [number, number], what: string): number => {
    const value = parseNumber(block.subarray(field[0], field[0] + field[1]));
    if (value === undefined) throw badTar(file, at, `the ${what} is not a number`);
    return value;
  };
  const sum = number(FIELD.CHECKSUM, 'checksum');
  const { unsigned, signed } = checksums(block);
  // Some old programs summed signed characters.
  if (sum !== unsigned && sum !== signed) {
    throw badTar(file, at, 'the checksum is wrong: this is not a tar archive, or a damaged one');
  }
  const type = block[TYPE_FLAG] === 0 ? '0' : String.fromCharCode(block[TYPE_FLAG]);
  const prefix = text(block, FIELD.MAGIC) === 'ustar' ? text(block, FIELD.PREFIX) : '';
  const name = text(block, FIELD.NAME);
  const isDevice = type === '3' || type === '4';
  return {
    name: prefix === '' ? name : `${prefix}/${name}`,
    linkName: text(block, FIELD.LINK_NAME),
    type,
    mode: number(FIELD.MODE, 'mode'),
    uid: number(FIELD.UID, 'owner'),
    gid: number(FIELD.GID, 'group'),
    size: number(FIELD.SIZE, 'size'),
    mtime: number(FIELD.MTIME, 'time'),
    // Old archives have anything there.
    major: isDevice ? number(FIELD.MAJOR, 'device number') : 0,
    minor: isDevice ? number(FIELD.MINOR, 'device number') : 0,
  };
}

function text(block: Buffer, [start, length]: readonly [number, number]): string {
  const field = block.subarray(start, start + length);
  const end = field.indexOf(0);
  return field.toString('latin1', 0, end < 0 ? length : end);
}

function checksums(block: Buffer): { unsigned: number; signed: number } {
  let unsigned = 0;
  let signed = 0;
  const [start, length] = FIELD.CHECKSUM;
  for (let index = 0; index < BLOCK; index++) {
    const byte = index >= start && index < start + length ? 0x20 : (block[index] ?? 0);
    unsigned += byte;
    signed += byte < 0x80 ? byte : byte - 0x100;
  }
  return { unsigned, signed };
}

/** Octal digits, or, with the top bit set, a two's complement number in base 256. Undefined for neither. */
function parseNumber(field: Buffer): number | undefined {
  const first = field[0];
  if (first >= 0x80) {
    let value = BigInt(first & 0x7f) - (first & 0x40 ? 0x80n : 0n);
    for (const byte of field.subarray(1)) value = value * 256n + BigInt(byte);
    const number = Number(value);
    return Number.isSafeInteger(number) ? number : undefined;
  }
  const digits = field
    .toString('latin1')
    .replace(/^[ \0]+/, '')
    .replace(/[ \0][^]*$/, '');
  if (digits === '') return 0;
  return /^[0-7]+$/.test(digits) ? Number.parseInt(digits, 8) : undefined;
}

/** What pax headers say: keyword to value, byte for byte. */
export type PaxRecords = ReadonlyMap<string, string>;

/** Reads the body of a pax header: records of "length keyword=value\n". Throws ImageError bad-tar. */
export function parsePax(body: Buffer, file: string, at: number): PaxRecords {
  const records = new Map<string, string>();
  let start = 0;
  while (start < body.length) {
    const space = body.indexOf(0x20, start);
    const digits = space < 0 ? '' : body.toString('latin1', start, space);
    const length = /^[1-9][0-9]{0,8}$/.test(digits) ? Number(digits) : 0;
    const end = start + length;
    if (length <= digits.length + 1 || end > body.length || body[end - 1] !== 0x0a) {
      throw badTar(file, at, 'an extended header is damaged');
    }
    const record = body.toString('latin1', space + 1, end - 1);
    const equals = record.indexOf('=');
    if (equals <= 0) throw badTar(file, at, 'an extended header is damaged');
    records.set(record.slice(0, equals), record.slice(equals + 1));
    start = end;
  }
  return records;
}
