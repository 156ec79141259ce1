// Tar archives and container images made for tests, right or wrong as the test asks.

import { createHash } from 'node:crypto';
import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { gzipSync } from 'node:zlib';

export interface TarItem {
  readonly name: string;
  /** The type flag; `0`, a file, by default. */
  readonly type?: string;
  readonly content?: string | Buffer;
  readonly mode?: number;
  readonly uid?: number;
  readonly gid?: number;
  readonly mtime?: number;
  readonly linkName?: string;
  readonly major?: number;
  readonly minor?: number;
  /** What the header claims, instead of the content's size. */
  readonly size?: number;
  /** A field to be put over the finished header, before its checksum. */
  readonly patch?: (header: Buffer) => void;
}

const BLOCK = 512;

/** One entry: a ustar header, and the content padded. */
export function tarItem(item: TarItem): Buffer {
  const { name, type = '0', mode = 0o644, uid = 0, gid = 0, mtime = 0, linkName = '', major = 0, minor = 0 } = item;
  const content = Buffer.from(item.content ?? '');
  const header = Buffer.alloc(BLOCK);
  header.write(name, 0, 100, 'latin1');
  octal(header, 100, 8, mode);
  octal(header, 108, 8, uid);
  octal(header, 116, 8, gid);
  octal(header, 124, 12, item.size ?? content.length);
  octal(header, 136, 12, mtime);
  header.write(type, 156, 1, 'latin1');
  header.write(linkName, 157, 100, 'latin1');
  header.write('ustar\x0000', 257, 'latin1');
  octal(header, 329, 8, major);
  octal(header, 337, 8, minor);
  item.patch?.(header);
  setChecksum(header);
  return Buffer.concat([header, content, Buffer.alloc(-content.length & (BLOCK - 1))]);
}

function octal(header: Buffer, at: number, length: number, value: number): void {
  header.write(`${value.toString(8).padStart(length - 1, '0')}\0`, at, length, 'latin1');
}

function setChecksum(header: Buffer): void {
  header.fill(0x20, 148, 156);
  const sum = header.reduce((total, byte) => total + byte, 0);
  header.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 8, 'latin1');
}

/** A pax header for the entry behind it. */
export function pax(records: Readonly<Record<string, string>>, type = 'x'): Buffer {
  const body = Object.entries(records).map(([key, value]) => {
    const rest = Buffer.byteLength(` ${key}=${value}\n`);
    let length = rest + 1;
    while (String(length).length + rest !== length) length = String(length).length + rest;
    return `${length} ${key}=${value}\n`;
  });
  return tarItem({ name: 'PaxHeader', type, content: body.join('') });
}

export const TAR_END = Buffer.alloc(2 * BLOCK);

/** A whole archive; what is a Buffer goes in as it is. */
export function tar(items: readonly (TarItem | Buffer)[]): Buffer {
  return Buffer.concat([...items.map((item) => (Buffer.isBuffer(item) ? item : tarItem(item))), TAR_END]);
}

export function sha256(bytes: Buffer): string {
  return createHash('sha256').update(bytes).digest('hex');
}

/** A container image: its layers as tar archives, and what its configuration says. */
export interface TestImage {
  readonly layers: readonly Buffer[];
  readonly name?: string;
  readonly config?: Readonly<Record<string, unknown>>;
  readonly architecture?: string;
  readonly gzip?: boolean;
  /** Instead of the layers' digests. */
  readonly diffIds?: readonly string[];
}

function configOf({ layers, config = {}, architecture = 'amd64', diffIds }: TestImage): Buffer {
  const ids = diffIds ?? layers.map((layer) => `sha256:${sha256(layer)}`);
  return Buffer.from(JSON.stringify({ architecture, os: 'linux', config, rootfs: { type: 'layers', diff_ids: ids } }));
}

/** What `docker save` of the older versions writes: a folder for each layer, the manifest last. */
export function dockerArchive(images: readonly TestImage[]): Buffer {
  const items: TarItem[] = [];
  const manifest = images.map((image, index) => {
    const config = configOf(image);
    const Layers = image.layers.map((layer, number) => {
      const name = `${index}-${number}/layer.tar`;
      items.push({ name, content: image.gzip === true ? gzipSync(layer) : layer });
      return name;
    });
    const Config = `${sha256(config)}.json`;
    items.push({ name: Config, content: config });
    return { Config, RepoTags: image.name === undefined ? null : [image.name], Layers };
  });
  return tar([...items, { name: 'manifest.json', content: JSON.stringify(manifest) }]);
}

/** Files of an OCI layout by their paths. The images are behind an index of their own when `nested`. */
export function ociFiles(images: readonly TestImage[], nested = false): Map<string, Buffer> {
  const files = new Map<string, Buffer>([['oci-layout', Buffer.from('{"imageLayoutVersion":"1.0.0"}')]]);
  const blob = (bytes: Buffer, mediaType: string): { mediaType: string; digest: string; size: number } => {
    files.set(`blobs/sha256/${sha256(bytes)}`, bytes);
    return { mediaType, digest: `sha256:${sha256(bytes)}`, size: bytes.length };
  };
  const manifests = images.map((image) => {
    const layers = image.layers.map((layer) =>
      blob(image.gzip === true ? gzipSync(layer) : layer, 'application/vnd.oci.image.layer.v1.tar'),
    );
    const config = blob(configOf(image), 'application/vnd.oci.image.config.v1+json');
    const manifest = Buffer.from(JSON.stringify({ schemaVersion: 2, config, layers }));
    return {
      ...blob(manifest, 'application/vnd.oci.image.manifest.v1+json'),
      platform: { os: 'linux', architecture: image.architecture ?? 'amd64' },
      ...(image.name === undefined ? {} : { annotations: { 'org.opencontainers.image.ref.name': image.name } }),
    };
  });
  const index = Buffer.from(JSON.stringify({ schemaVersion: 2, manifests }));
  const top = nested
    ? Buffer.from(JSON.stringify({ manifests: [blob(index, 'application/vnd.oci.image.index.v1+json')] }))
    : index;
  return files.set('index.json', top);
}

export function writeFiles(folder: string, files: ReadonlyMap<string, Buffer>): void {
  for (const [path, bytes] of files) {
    mkdirSync(dirname(join(folder, path)), { recursive: true });
    writeFileSync(join(folder, path), bytes);
  }
}
