// Names inside an image. A name is bytes, which need not be UTF-8; here it is a string with one character for each byte
// ("latin1"), so that it compares, sorts and goes back to bytes without loss.

import { ImageError } from './errors.js';

/** NAME_MAX of Linux, and of ext4. */
const MAX_NAME = 255;
/** PATH_MAX of Linux: what no program could open is refused. */
const MAX_PATH = 4095;
/** Deeper than any tree of use, and shallow enough to walk. */
const MAX_DEPTH = 512;

const MADE_ANEW = 'make the archive again, from a source that you trust';

/** A name of the host as an image has it. */
export function nameFromHost(text: string): string {
  return Buffer.from(text, 'utf8').toString('latin1');
}

/** A name of an image as messages show it, and as the host has it. */
export function nameToHost(name: string): string {
  return Buffer.from(name, 'latin1').toString('utf8');
}

/** `name` in messages: quoted, control characters escaped, not endless. */
export function shown(name: string): string {
  const text = JSON.stringify(nameToHost(name));
  return text.length > 200 ? `${text.slice(0, 199)}…"` : text;
}

/**
 * The components of a path in an image, without empty ones and ".": a leading slash means nothing, as in tar. Throws
 * ImageError path-traversal for "..", bad-name for what no file system takes. `file` is where the path comes from.
 */
export function splitPath(path: string, file: string): string[] {
  const components = path.split('/').filter((component) => component !== '' && component !== '.');
  if (components.includes('..')) {
    const detail = `the entry ${shown(path)} climbs out of the image with ".."`;
    throw new ImageError('path-traversal', file, detail, MADE_ANEW);
  }
  const length = components.reduce((sum, component) => sum + component.length + 1, 0);
  const tooLong = components.some((component) => component.length > MAX_NAME);
  if (tooLong || length > MAX_PATH || components.length > MAX_DEPTH) {
    throw new ImageError('bad-name', file, `the entry ${shown(path)} has too long a name`, MADE_ANEW);
  }
  if (path.includes('\0')) {
    throw new ImageError('bad-name', file, `the entry ${shown(path)} has a NUL in its name`, MADE_ANEW);
  }
  return components;
}
