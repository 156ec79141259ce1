// A console's output to standard output or to a file; there is no input. Main thread.

import { closeSync, constants, openSync } from 'node:fs';
import { errorCode } from '../../config/error-code.js';
import { NonBlockingOutput } from '../../platform/output.js';
import type { Fd } from '../../platform/units.js';
import { VmError } from '../errors.js';
import type { HostEnd } from './host-end.js';

const STDOUT = 1 as Fd;

/** Whatever standard output is. Input from it is read by the command, which knows its keys. */
export function openStandardOutput(): HostEnd {
  return new NonBlockingOutput(STDOUT);
}

/** A file, emptied first. Throws VmError HOST_PATH, which names `option`. */
export function openOutputFile(option: string, path: string): HostEnd {
  let fd: number;
  try {
    // O_NONBLOCK: a FIFO that nobody reads is an error (ENXIO) instead of a wait without end.
    fd = openSync(path, constants.O_WRONLY | constants.O_CREAT | constants.O_TRUNC | constants.O_NONBLOCK, 0o666);
  } catch (error) {
    throw new VmError(
      'HOST_PATH',
      `${option} file=${path} cannot be written (${errorCode(error) ?? 'error'})`,
      'name a file in a directory where you may create files',
      error,
    );
  }
  try {
    return new NonBlockingOutput(fd as Fd);
  } finally {
    closeSync(fd);
  }
}
