// Makes the image of a disk in its I/O worker, from what the main thread has opened and checked. A new format is a type
// in `ImageSettings`, a case here, and a case of `attachBlock` on the main thread.

import type { DiskImage } from './disk-image.js';
import { RawImage } from './raw-image.js';
import type { ImageSettings } from './settings.js';

/** Throws SysError, or an Error that says what is wrong with the image. */
export function openImage(settings: ImageSettings): DiskImage {
  return new RawImage(settings);
}
