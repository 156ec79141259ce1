// The tar reader: what the different programs write, what is refused, and that nothing upsets it.

import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { type ByteSource, StreamSource } from '../../src/image/byte-source.js';
import { ImageError } from '../../src/image/errors.js';
import { type TarEntry, TarReader } from '../../src/image/tar-reader.js';
import { pax, tar, TAR_END, tarItem } from '../support/tar.js';

/** `bytes` in pieces of `length`. */
function source(bytes: Buffer, length = 1000): ByteSource {
  return new StreamSource(
    (async function* () {
      for (let at = 0; at < bytes.length; at += length) yield await Promise.resolve(bytes.subarray(at, at + length));
    })(),
  );
}

interface Read {
  readonly entry: TarEntry;
  readonly content: string;
}

async function readAll(bytes: Buffer, length?: number): Promise<Read[]> {
  const reader = new TarReader(source(bytes, length), 'a.tar');
  const found: Read[] = [];
  for (let entry = await reader.next(); entry !== undefined; entry = await reader.next()) {
    const pieces: Buffer[] = [];
    for await (const piece of reader.content()) pieces.push(piece);
    found.push({ entry, content: Buffer.concat(pieces).toString('latin1') });
  }
  return found;
}

async function codeOf(bytes: Buffer): Promise<string> {
  try {
    await readAll(bytes);
    return 'read';
  } catch (error) {
    if (error instanceof ImageError) return error.code;
    throw error;
  }
}

describe('the tar reader', () => {
  test('reads every kind of entry with its attributes', async () => {
    const archive = tar([
      { name: 'd/', type: '5', mode: 0o1777 },
      { name: 'd/f', content: 'hello', mode: 0o4755, uid: 1000, gid: 1001, mtime: 12345 },
      { name: 'd/h', type: '1', linkName: 'd/f', size: 5 },
      { name: 's', type: '2', linkName: '../x' },
      { name: 'c', type: '3', major: 5, minor: 1 },
      { name: 'b', type: '4', major: 8, minor: 0 },
      { name: 'p', type: '6' },
      { name: 'old/', type: '\0' },
    ]);
    const found = await readAll(archive);
    expect(found.map(({ entry: { kind, name } }) => `${kind} ${name}`)).toEqual([
      'directory d/',
      'file d/f',
      'hardlink d/h',
      'symlink s',
      'character c',
      'block b',
      'fifo p',
      'directory old/',
    ]);
    expect(found[1]).toMatchObject({
      entry: { mode: 0o4755, uid: 1000, gid: 1001, mtime: 12345, size: 5 },
      content: 'hello',
    });
    expect(found[2].entry).toMatchObject({ linkName: 'd/f', size: 0 });
    expect(found[4].entry).toMatchObject({ major: 5, minor: 1 });
  });

  test('content that nobody reads is passed over, however the pieces are cut', async () => {
    const archive = tar([
      { name: 'a', content: 'x'.repeat(1300) },
      { name: 'b', content: 'y' },
    ]);
    for (const length of [1, 511, 512, 4096]) {
      const reader = new TarReader(source(archive, length), 'a.tar');
      await reader.next();
      expect((await reader.next())?.name).toBe('b');
      expect(await reader.next()).toBeUndefined();
    }
  });

  test('long names: prefix, GNU and pax; the pax header wins', async () => {
    const long = 'n'.repeat(150);
    const found = await readAll(
      tar([
        { name: 'leaf', patch: (header) => header.write('up/per', 345, 'latin1') },
        tarItem({ name: '././@LongLink', type: 'L', content: `${long}\0` }),
        tarItem({ name: '././@LongLink', type: 'K', content: `${long}2\0` }),
        { name: 'cut', type: '2', linkName: 'cut' },
        pax({ path: `${long}3`, mtime: '17.5', uid: '4000000', 'SCHILY.xattr.security.capability': 'x' }),
        { name: 'cut', content: 'z' },
        { name: 'plain' },
      ]),
    );
    expect(found.map(({ entry }) => entry.name)).toEqual(['up/per/leaf', long, `${long}3`, 'plain']);
    expect(found[1].entry.linkName).toBe(`${long}2`);
    expect(found[2].entry).toMatchObject({ mtime: 17, uid: 4_000_000 });
    expect(found[2].entry.xattrs).toHaveLength(1);
    expect(found[3].entry.xattrs).toHaveLength(0);
  });

  test('numbers in base 256, and a global header', async () => {
    const big = (header: Buffer): void => {
      header.fill(0, 108, 116);
      header[108] = 0x80;
      header.writeUInt32BE(3_000_000_000, 112);
    };
    const found = await readAll(tar([pax({ gid: '7' }, 'g'), { name: 'a', patch: big }, { name: 'b' }]));
    expect(found.map(({ entry: { uid, gid } }) => [uid, gid])).toEqual([
      [3_000_000_000, 7],
      [0, 7],
    ]);
  });

  test('an archive without its end marker, cut between entries, is read', async () => {
    expect(await readAll(tarItem({ name: 'a', content: 'b' }))).toHaveLength(1);
    expect(await readAll(Buffer.alloc(0))).toEqual([]);
  });

  const whole = tar([{ name: 'a', content: 'x'.repeat(700) }]);
  test.each<[string, Buffer, string]>([
    ['cut in a header', whole.subarray(0, 300), 'truncated'],
    ['cut in content', whole.subarray(0, 900), 'truncated'],
    ['cut in padding', whole.subarray(0, 1300), 'truncated'],
    ['cut in a long name', tarItem({ name: 'L', type: 'L', size: 600 }), 'truncated'],
    ['no tar archive', Buffer.from('x'.repeat(600)), 'bad-tar'],
    ['a checksum that is wrong', Buffer.concat([Buffer.from('y'), whole.subarray(1)]), 'bad-tar'],
    [
      'a size that is no number',
      tar([{ name: 'a', patch: (header) => header.write('zzzz', 124, 'latin1') }]),
      'bad-tar',
    ],
    ['a negative size', tar([{ name: 'a', patch: (header) => header.fill(0xff, 124, 136) }]), 'bad-tar'],
    ['a size beyond all numbers', tar([{ name: 'a', patch: (header) => header.fill(0x81, 124, 136) }]), 'bad-tar'],
    ['a huge size', tar([{ name: 'a', size: 2 ** 33 - 1 }]), 'truncated'],
    ['a huge extended header', tar([{ name: 'x', type: 'x', size: 2 ** 30 }]), 'bad-tar'],
    ['pax records that do not add up', tar([{ name: 'x', type: 'x', content: '99 path=a\n' }]), 'bad-tar'],
    ['pax records of no length', tar([{ name: 'x', type: 'x', content: '0 path=a\n' }]), 'bad-tar'],
    ['a pax size that is none', tar([pax({ size: '1.5' }), { name: 'a' }]), 'bad-tar'],
    ['a pax owner below 0', tar([pax({ uid: '-1' }), { name: 'a' }]), 'bad-tar'],
    ['a sparse file of GNU', tar([{ name: 'a', type: 'S' }]), 'unsupported'],
    ['a sparse file of pax', tar([pax({ 'GNU.sparse.major': '1' }), { name: 'a' }]), 'unsupported'],
    ['several volumes', tar([{ name: 'a', type: 'M' }]), 'unsupported'],
  ])('%s is refused by name', async (_, bytes, code) => {
    expect(await codeOf(bytes)).toBe(code);
  });

  const item = fc.record({
    name: fc.stringMatching(/^[a-z/.]{1,20}$/),
    type: fc.constantFrom('0', '1', '2', '5', 'x', 'g', 'L', 'K', 'S', '9'),
    content: fc.string({ maxLength: 700, unit: 'binary-ascii' }),
    linkName: fc.string({ maxLength: 20, unit: 'binary-ascii' }),
  });

  test('whatever comes, it is read or refused with an ImageError', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(item, { maxLength: 6 }),
        fc.array(fc.tuple(fc.nat(), fc.nat(255)), { maxLength: 6 }),
        fc.nat(1200),
        async (items, changes, cut) => {
          const bytes = tar(items);
          for (const [at, value] of changes) bytes[at % bytes.length] = value;
          await codeOf(bytes.subarray(0, bytes.length - Math.min(cut, bytes.length)));
        },
      ),
      { numRuns: 300 },
    );
  });

  test('so it is with headers whose checksum is right and whose fields are anything', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.tuple(fc.nat(511), fc.nat(255)), { minLength: 1, maxLength: 40 }),
        async (changes) => {
          const patch = (header: Buffer): void => {
            for (const [at, value] of changes) header[at] = value;
          };
          await codeOf(Buffer.concat([tarItem({ name: 'a', content: 'abc', patch }), TAR_END]));
        },
      ),
      { numRuns: 300 },
    );
  });
});
