// Finds one image in a `docker save` archive or an OCI layout: its configuration, and its layers from the lowest up.
//
// Left out: images that are only described (schema 1 manifests), encrypted layers, images for other machines than this
// monitor's.

import {
  CONFIG,
  type Descriptor,
  DOCKER_MANIFEST,
  type ImageConfig,
  INDEX,
  LAYOUT,
  MANIFEST,
  parseDocument,
} from './documents.js';
import { ImageError } from './errors.js';
import { readDocument, type Store } from './store.js';
import { type Digest, verified } from './streams.js';
import { StreamSource } from './byte-source.js';

export interface ContainerLayer {
  /** The part of the store that has it, perhaps compressed. */
  readonly part: string;
  /** Of that part, if the image says so. */
  readonly digest: Digest | undefined;
  /** Of the tar archive in it. */
  readonly diffId: Digest;
}

export interface ContainerImage {
  readonly config: ImageConfig;
  readonly layers: readonly ContainerLayer[];
}

const MANIFEST_FILE = 'manifest.json';
const INDEX_FILE = 'index.json';
const LAYOUT_FILE = 'oci-layout';
/** An index may list indexes; nobody needs more of them. */
const MAX_INDEX_DEPTH = 4;
const NAME_ANNOTATIONS = ['io.containerd.image.name', 'org.opencontainers.image.ref.name'];
const INDEX_TYPES = [
  'application/vnd.oci.image.index.v1+json',
  'application/vnd.docker.distribution.manifest.list.v2+json',
];

const REMADE = 'save the image again';

/** The image called `wanted`, or the only one. Throws ImageError. */
export async function findImage(store: Store, wanted: string | undefined): Promise<ContainerImage> {
  const image = (await store.has(MANIFEST_FILE))
    ? await dockerImage(store, wanted)
    : (await store.has(INDEX_FILE))
      ? await ociImage(store, wanted)
      : undefined;
  if (image === undefined) {
    const detail = `there is neither a ${MANIFEST_FILE} nor an ${INDEX_FILE} in it, so it is no image`;
    const mend = 'save one with `docker save`, or `skopeo copy ... oci:FOLDER`';
    throw new ImageError('no-such-image', store.file, detail, mend);
  }
  const { architecture, os } = image.config;
  if (architecture !== 'amd64' || os !== 'linux') {
    const detail = `the image is for ${os} on ${architecture}`;
    throw new ImageError('wrong-machine', store.file, detail, 'take the one for linux/amd64');
  }
  return image;
}

async function dockerImage(store: Store, wanted: string | undefined): Promise<ContainerImage> {
  const bytes = await readDocument(store, MANIFEST_FILE);
  const images = parseDocument(DOCKER_MANIFEST, bytes, store.file, MANIFEST_FILE);
  const tags = images.map(({ RepoTags }) => RepoTags ?? []);
  const { Config, Layers } = choose(
    images.map((image, index) => ({ image, names: tags[index] ?? [] })),
    wanted,
    store.file,
  );
  const hash = /^(?:blobs\/sha256\/)?([0-9a-f]{64})(?:\.json)?$/.exec(Config)?.[1];
  const configDigest: Digest | undefined = hash === undefined ? undefined : `sha256:${hash}`;
  const config = await readConfig(store, Config, configDigest);
  return { config, layers: layersOf(store, config, Layers, layerDigestOfPath) };
}

/** In archives of newer versions a layer's path is its digest. */
function layerDigestOfPath(path: string): Digest | undefined {
  const hash = /^blobs\/sha256\/([0-9a-f]{64})$/.exec(path)?.[1];
  return hash === undefined ? undefined : `sha256:${hash}`;
}

async function ociImage(store: Store, wanted: string | undefined): Promise<ContainerImage> {
  parseDocument(LAYOUT, await readDocument(store, LAYOUT_FILE), store.file, LAYOUT_FILE);
  let index = parseDocument(INDEX, await readDocument(store, INDEX_FILE), store.file, INDEX_FILE);
  let descriptor = choose(
    index.manifests.map((image) => ({ image, names: namesOf(image) })),
    wanted,
    store.file,
  );
  for (let depth = 0; INDEX_TYPES.includes(descriptor.mediaType ?? ''); depth++) {
    if (depth === MAX_INDEX_DEPTH) {
      throw new ImageError('bad-manifest', store.file, 'its indexes list indexes without an end', REMADE);
    }
    index = parseDocument(INDEX, await readBlob(store, descriptor), store.file, descriptor.digest);
    const fitting = index.manifests.find(
      ({ platform }) => platform?.architecture === 'amd64' && platform.os === 'linux',
    );
    if (fitting === undefined) {
      const list = index.manifests.map(({ platform }) => `${platform?.os ?? '?'}/${platform?.architecture ?? '?'}`);
      const detail = `the image is for ${[...new Set(list)].join(', ')}`;
      throw new ImageError('wrong-machine', store.file, detail, 'take the one for linux/amd64');
    }
    descriptor = fitting;
  }
  const manifest = parseDocument(MANIFEST, await readBlob(store, descriptor), store.file, descriptor.digest);
  const config = await readConfig(store, blobPath(manifest.config.digest), manifest.config.digest);
  const digests = new Map(manifest.layers.map(({ digest }) => [blobPath(digest), digest]));
  for (const { mediaType = '', digest, size } of manifest.layers) {
    if (mediaType.includes('encrypted')) {
      throw new ImageError('unsupported', store.file, `the layer ${digest} is encrypted`, 'decrypt the image first');
    }
    const actual = await store.size(blobPath(digest));
    if (actual !== size) {
      const detail = `the layer ${digest} has ${actual} bytes instead of ${size}`;
      throw new ImageError(actual < size ? 'truncated' : 'digest-mismatch', store.file, detail, REMADE);
    }
  }
  const parts = manifest.layers.map(({ digest }) => blobPath(digest));
  return { config, layers: layersOf(store, config, parts, (part) => digests.get(part)) };
}

function namesOf({ annotations }: Descriptor): string[] {
  return NAME_ANNOTATIONS.map((key) => annotations?.[key]).filter((name) => name !== undefined);
}

function choose<T>(
  images: readonly { readonly image: T; readonly names: readonly string[] }[],
  wanted: string | undefined,
  file: string,
): T {
  const list = images.map(({ names }) => names[0] ?? '(without a name)').join(', ');
  if (wanted === undefined) {
    if (images.length === 1) return images[0].image;
    const detail = images.length === 0 ? 'there is no image in it' : `there are several images in it: ${list}`;
    throw new ImageError('no-such-image', file, detail, images.length === 0 ? REMADE : 'choose one (--image NAME)');
  }
  const found = images.find(({ names }) => names.some((name) => name === wanted || name === `${wanted}:latest`));
  if (found !== undefined) return found.image;
  const detail = `there is no image ${JSON.stringify(wanted)} in it, but ${list || 'none'}`;
  throw new ImageError('no-such-image', file, detail, 'choose another (--image NAME)');
}

function blobPath(digest: Digest): string {
  return `blobs/${digest.replace(':', '/')}`;
}

async function readBlob(store: Store, { digest }: Descriptor): Promise<Buffer> {
  return readVerified(store, blobPath(digest), digest);
}

async function readConfig(store: Store, part: string, digest: Digest | undefined): Promise<ImageConfig> {
  const bytes = digest === undefined ? await readDocument(store, part) : await readVerified(store, part, digest);
  return parseDocument(CONFIG, bytes, store.file, part);
}

async function readVerified(store: Store, part: string, digest: Digest): Promise<Buffer> {
  const bytes = await readDocument(store, part);
  const once = async function* (): AsyncGenerator<Buffer> {
    yield await Promise.resolve(bytes);
  };
  // To its end, where the digest is looked at.
  const source = new StreamSource(verified(once(), digest, store.file, part));
  const checked = await source.read(bytes.length + 1);
  return checked;
}

function layersOf(
  store: Store,
  config: ImageConfig,
  parts: readonly string[],
  digestOf: (part: string) => Digest | undefined,
): ContainerLayer[] {
  const diffIds = config.rootfs.diff_ids;
  if (diffIds.length !== parts.length) {
    const detail = `its configuration has ${diffIds.length} layers, and its manifest ${parts.length}`;
    throw new ImageError('bad-manifest', store.file, detail, REMADE);
  }
  return diffIds.map((diffId, index) => {
    const part = parts[index] ?? '';
    return { part, diffId, digest: digestOf(part) };
  });
}
