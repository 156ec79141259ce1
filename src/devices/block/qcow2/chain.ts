// A qcow2 image and the files behind it: finds, opens and checks them all before the guest starts. Main thread; the I/O
// worker gets settings with every descriptor in them.
//
// An image says what its backing file is, so whoever made the image says which files of the host the guest can read. That
// is what `backing_files=off` is for; and a backing file whose format the image does not tell is never taken for a qcow2
// image: a raw file that a guest once wrote could name any file in its turn.

import { statSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { NativeBuffer } from '../../../platform/native-buffer.js';
import { HostFile } from '../host-file.js';
import type { HostFileSettings, ImageSettings, Qcow2ImageSettings } from '../settings.js';
import { checkCompression } from './decompressor.js';
import { QcowError } from './errors.js';
import { hasQcowMagic, readHeader, type BackingReference } from './header.js';
import { ImageFile } from './image-file.js';
import { Metadata } from './metadata.js';

/** The image and the files behind it. More are a mistake rather than a need, and each costs memory. */
export const MAX_CHAIN_LENGTH = 64;

export interface ChainOptions {
  /** Whether the image may have a backing file. */
  readonly backingFiles: boolean;
  /** Opens `path`, which `image` names, for reading only. What it throws goes to the caller. */
  readonly openBacking: (path: string, image: string) => HostFileSettings;
}

export interface OpenedChain {
  readonly settings: Qcow2ImageSettings;
  /** Bytes of the disk. */
  readonly size: number;
  readonly clusterSize: number;
}

/** Opens what `file` has behind it, and checks all images of the chain. Throws QcowError. */
export function openChain(file: HostFileSettings, options: ChainOptions): OpenedChain {
  return openLink(file, options, new Set([identityOf(file.path)]));
}

/** `chain` is what has been opened so far. */
function openLink(file: HostFileSettings, options: ChainOptions, chain: Set<string>): OpenedChain {
  const { path } = file;
  const header = readHeader(new HostFile(file));
  checkCompression(path, header.compression);
  // Only for what it checks; the I/O worker reads the tables again.
  new Metadata(new ImageFile(file), header, () => undefined);
  const backing = header.backing === undefined ? undefined : openBacking(file, header.backing, options, chain);
  return { settings: { format: 'qcow2', file, backing }, size: header.size, clusterSize: 2 ** header.clusterBits };
}

function openBacking(
  { path: image }: HostFileSettings,
  { name, format }: BackingReference,
  options: ChainOptions,
  chain: Set<string>,
): ImageSettings {
  const quoted = JSON.stringify(name);
  if (!options.backingFiles) {
    const mend = 'leave backing_files=off out if the image is to be trusted with the choice';
    throw new QcowError('backing-refused', image, `it has a backing file, ${quoted}, and backing_files=off`, mend);
  }
  // What QEMU takes for something else than a path.
  if (/^[^/]*:/.test(name)) {
    const detail = `its backing file ${quoted} is not named by a path`;
    throw new QcowError('backing-file', image, detail, rebaseMend(image, 'PATH', format ?? 'FORMAT'));
  }
  const path = resolve(dirname(image), name);
  if (format !== undefined && format !== 'raw' && format !== 'qcow2') {
    const detail = `its backing file ${quoted} is said to be ${JSON.stringify(format)} (raw and qcow2 can be read)`;
    throw new QcowError('backing-file', image, detail, 'convert it: qemu-img convert -O qcow2');
  }
  const identity = identityOf(path);
  if (chain.has(identity)) {
    throw new QcowError(
      'backing-loop',
      image,
      `its backing file ${quoted} has this image behind it`,
      'rebase one of them',
    );
  }
  if (chain.size === MAX_CHAIN_LENGTH) {
    const detail = `more than ${MAX_CHAIN_LENGTH} images lie behind each other`;
    throw new QcowError('backing-depth', image, detail, 'merge some of them: qemu-img commit, or qemu-img convert');
  }
  chain.add(identity);
  const file = options.openBacking(path, image);
  if (format === 'qcow2') return openLink(file, options, chain).settings;
  if (format === undefined && hasQcowMagic(firstBytes(file))) {
    const detail = `it does not say in which format its backing file ${quoted} is`;
    throw new QcowError('backing-file', image, detail, rebaseMend(image, name, 'qcow2'));
  }
  return { format: 'raw', file, guardHeader: false };
}

function firstBytes(file: HostFileSettings): Uint8Array {
  const buffer = new NativeBuffer(4);
  return new HostFile(file, { zeroesPastEnd: true }).read(buffer.address, 4, 0) === 0
    ? buffer.bytes
    : new Uint8Array(0);
}

function rebaseMend(image: string, backing: string, format: string): string {
  return `say what it is: qemu-img rebase -u -F ${format} -b ${backing} ${image}`;
}

/** Names the file itself, whatever path leads to it. One that cannot be looked at cannot be opened in a moment, either. */
function identityOf(path: string): string {
  try {
    const { dev, ino } = statSync(path);
    return `${dev}:${ino}`;
  } catch {
    return path;
  }
}
