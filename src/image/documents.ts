// The JSON documents of container images, checked before any of it is used. Keys that are not used here may be anything.
//
// Specifications: OCI image-spec 1.1 (image-index.md, manifest.md, config.md, image-layout.md); manifest.json of docker save
// is documented by the Docker Image Specification 1.2, "Combined Image JSON + Filesystem Changeset Format".

import { z } from 'zod';
import { ImageError } from './errors.js';
import { type Digest, isDigest } from './streams.js';

const digest = z.string().refine((text): text is Digest => isDigest(text), 'is no sha256 or sha512 digest');
const names = z.array(z.string().max(4096)).max(10_000);
/** Older writers have null where nothing is. */
const optionalNames = names.nullish();

const descriptor = z.object({
  mediaType: z.string().optional(),
  digest,
  size: z.int().nonnegative(),
  platform: z.object({ architecture: z.string(), os: z.string() }).nullish(),
  annotations: z.record(z.string(), z.string()).nullish(),
});
export type Descriptor = z.infer<typeof descriptor>;

export const INDEX = z.object({ manifests: z.array(descriptor).max(1000) });
export const MANIFEST = z.object({ config: descriptor, layers: z.array(descriptor).max(1000) });
export const LAYOUT = z.object({ imageLayoutVersion: z.literal('1.0.0', 'is not 1.0.0') });
export const DOCKER_MANIFEST = z
  .array(z.object({ Config: z.string(), RepoTags: optionalNames, Layers: names.max(1000) }))
  .min(1)
  .max(1000);

export const CONFIG = z.object({
  architecture: z.string(),
  os: z.string(),
  rootfs: z.object({ type: z.literal('layers'), diff_ids: z.array(digest).max(1000) }),
  config: z
    .object({
      User: z.string().nullish(),
      Env: optionalNames,
      Entrypoint: optionalNames,
      Cmd: optionalNames,
      WorkingDir: z.string().nullish(),
      StopSignal: z.string().nullish(),
    })
    .nullish(),
});
export type ImageConfig = z.infer<typeof CONFIG>;

/** `bytes` as JSON of that shape. Throws ImageError bad-manifest, which says where in `name` of `file` something is wrong. */
export function parseDocument<T extends z.ZodType>(shape: T, bytes: Buffer, file: string, name: string): z.infer<T> {
  const bad = (detail: string): ImageError =>
    new ImageError('bad-manifest', file, `${name} ${detail}`, 'save the image again');
  let value: unknown;
  try {
    value = JSON.parse(bytes.toString('utf8'));
  } catch (error) {
    throw bad(`is not JSON (${error instanceof Error ? error.message.slice(0, 120) : ''})`);
  }
  const result = shape.safeParse(value);
  if (result.success) return result.data;
  const issue = result.error.issues[0];
  const place = issue.path.map(String).join('.');
  throw bad(`is not as it should be: ${place === '' ? 'the document' : place}: ${issue.message}`);
}
