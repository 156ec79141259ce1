// The entropy device on the main thread: its source is opened before the guest starts.

import type { RngConfig } from '../../config/vm-config.js';
import { RNG_COUNTERS, rngIdentity, type RngSettings } from '../../devices/rng/settings.js';
import { SysError } from '../../platform/errno.js';
import { close, O_NOCTTY, O_NONBLOCK, O_RDONLY, open } from '../../platform/libc.js';
import type { Fd } from '../../platform/units.js';
import { VmError } from '../errors.js';
import type { AttachContext, AttachedDevice } from './attached-device.js';
import { statOrThrow } from './disk-file.js';

const OPTION = '--rng';
const MEND = 'name a source of random bytes, for instance /dev/urandom';

/** Opens the source, which belongs to `resources` then. Throws VmError HOST_PATH. */
export function attachRng({ src: path }: RngConfig, { resources }: AttachContext): AttachedDevice<RngSettings> {
  // Before it is opened: opening some things waits or does something.
  const stats = statOrThrow(OPTION, path);
  if (!stats.isCharacterDevice() && !stats.isFile()) {
    const what = stats.isDirectory() ? 'is a directory' : 'is neither a character device nor a file';
    throw new VmError('HOST_PATH', `${OPTION} src=${path} ${what}`, MEND);
  }
  if (stats.isFile() && stats.size === 0) throw new VmError('HOST_PATH', `${OPTION} src=${path} is empty`, MEND);
  const fd = resources.own(openOrThrow(path), close);
  return { id: '_rng', identity: rngIdentity(), settings: { kind: 'rng', fd, path }, counterNames: RNG_COUNTERS };
}

function openOrThrow(path: string): Fd {
  try {
    return open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY);
  } catch (error) {
    if (!(error instanceof SysError)) throw error;
    throw new VmError(
      'HOST_PATH',
      `${OPTION} src=${path} cannot be opened for reading (${error.code})`,
      'change its permissions, or name another source, for instance /dev/urandom',
      error,
    );
  }
}
