// What a layer's bytes go through before they are a tar archive: digests checked, gzip undone. Each step is a generator over
// the one before it, so that a reader who stops stops all of them.

import { createHash } from 'node:crypto';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { createGunzip } from 'node:zlib';
import type { Budget } from './budget.js';
import { ImageError } from './errors.js';

const REMADE = 'make or download it again';

/** A digest as OCI writes it. */
export type Digest = `${'sha256' | 'sha512'}:${string}`;

/** Whether `text` is a digest that can be checked here; nothing else becomes part of a path. */
export function isDigest(text: string): text is Digest {
  return /^(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$/.test(text);
}

/** `pieces` as they are; throws ImageError digest-mismatch at their end if they are something else. */
export async function* verified(
  pieces: AsyncIterable<Buffer>,
  digest: Digest,
  file: string,
  what: string,
): AsyncGenerator<Buffer> {
  const [algorithm = '', expected = ''] = digest.split(':');
  const hash = createHash(algorithm);
  for await (const piece of pieces) {
    hash.update(piece);
    yield piece;
  }
  const actual = hash.digest('hex');
  if (actual === expected) return;
  const detail = `${what} is to have the digest ${digest}, and has ${algorithm}:${actual}`;
  throw new ImageError('digest-mismatch', file, detail, REMADE);
}

/** `pieces`, counted. Throws ImageError too-large. */
export async function* bounded(pieces: AsyncIterable<Buffer>, budget: Budget, file: string): AsyncGenerator<Buffer> {
  for await (const piece of pieces) {
    budget.takeBytes(piece.length, file);
    yield piece;
  }
}

/** `pieces`, unpacked if they are gzip. Throws ImageError for what is damaged or packed in another way. */
export async function* decompressed(pieces: AsyncIterable<Buffer>, file: string): AsyncGenerator<Buffer> {
  const iterator = pieces[Symbol.asyncIterator]();
  const head: Buffer[] = [];
  try {
    // Enough to see a magic number, however the pieces were cut.
    for (let length = 0; length < 6;) {
      const next = await iterator.next();
      if (next.done === true) break;
      head.push(next.value);
      length += next.value.length;
    }
    const magic = Buffer.concat(head.map((piece) => piece.subarray(0, 6))).toString('latin1');
    const whole = async function* (): AsyncGenerator<Buffer> {
      yield* head;
      for (let next = await iterator.next(); next.done !== true; next = await iterator.next()) yield next.value;
    };
    const other = OTHER_COMPRESSIONS.find(([start]) => magic.startsWith(start));
    if (other !== undefined) {
      const [, name, mend] = other;
      throw new ImageError('unsupported', file, `a layer or archive compressed by ${name}`, mend);
    }
    yield* magic.startsWith('\x1f\x8b') ? gunzipped(whole(), file) : whole();
  } finally {
    await iterator.return?.();
  }
}

const OTHER_COMPRESSIONS = [
  ['\x28\xb5\x2f\xfd', 'zstd', 'save the image with gzip layers (skopeo copy --dest-compress-format gzip)'],
  ['\xfd7zXZ\0', 'xz', 'unpack it first: xz -d'],
  ['BZh', 'bzip2', 'unpack it first: bzip2 -d'],
] as const;

async function* gunzipped(pieces: AsyncIterable<Buffer>, file: string): AsyncGenerator<Buffer> {
  const gunzip = createGunzip();
  const source = Readable.from(pieces, { objectMode: false });
  const feeding = pipeline(source, gunzip).catch(() => undefined);
  try {
    for await (const piece of gunzip) yield piece as Buffer;
  } catch (error) {
    const code = typeof error === 'object' && error !== null && 'code' in error ? error.code : undefined;
    if (code === 'Z_BUF_ERROR') {
      throw new ImageError('truncated', file, 'the compressed data end in the middle', REMADE, error);
    }
    if (typeof code === 'string' && code.startsWith('Z_')) {
      throw new ImageError('bad-gzip', file, `the compressed data are damaged (${code})`, REMADE, error);
    }
    throw error;
  } finally {
    source.destroy();
    gunzip.destroy();
    await feeding;
  }
}
