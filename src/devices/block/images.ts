// Makes the image of a disk in its I/O worker, from what the main thread has opened and checked. A new format is a type
// in `ImageSettings`, a case here, and a case of `attachBlock` on the main thread.

import type { DiskImage } from './disk-image.js';
import type { ImageLog } from './qcow2/metadata.js';
import { Qcow2Image } from './qcow2/qcow2-image.js';
import { RawImage } from './raw-image.js';
import type { ImageSettings } from './settings.js';

/** `log` is told what a user should know of later. Throws SysError, or an Error that says what is wrong with the image. */
export function openImage(settings: ImageSettings, log: ImageLog): DiskImage {
  switch (settings.format) {
    case 'raw':
      return new RawImage(settings);
    case 'qcow2': {
      const backing = settings.backing === undefined ? undefined : openImage(settings.backing, log);
      return new Qcow2Image(settings.file, backing, log);
    }
  }
}
