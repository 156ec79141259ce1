// Rules about paths: what must exist before a machine is built. Looking now does not promise that the file is still
// there when it is opened; it only lets the common mistakes be told in terms of the option that made them.

import { accessSync, constants, statSync, type Stats } from 'node:fs';
import { basename, dirname, resolve } from 'node:path';
import { showValue } from '../config-error.js';
import { errorCode } from '../error-code.js';
import type { Complain } from './rule.js';

/** sizeof(sockaddr_un.sun_path), which must hold the path and a NUL. */
export const SUN_PATH_SIZE = 108;

/** `path` is a file that can be read. */
export function checkReadableFile(complain: Complain, field: string, path: string): void {
  checkText(complain, field, path);
  const stats = statOrComplain(complain, field, path, path);
  if (stats.isDirectory()) {
    complain(field, path, {
      code: 'UNUSABLE_FILE',
      problem: `${showValue(path)} is a directory`,
      mend: 'Name a file.',
    });
  }
  checkAccess(complain, field, path, path, constants.R_OK, 'read');
}

/** `path` is something that holds the bytes of a device: a file or a block device, to be read and perhaps written. */
export function checkImage(
  complain: Complain,
  field: string,
  path: string,
  { write, mend }: { readonly write: boolean; readonly mend: string },
): void {
  checkText(complain, field, path);
  const stats = statOrComplain(complain, field, path, path);
  if (!stats.isFile() && !stats.isBlockDevice()) {
    const problem = `${showValue(path)} is ${kindOf(stats)}, neither a file nor a block device`;
    complain(field, path, { code: 'UNUSABLE_FILE', problem, mend: 'Name a file or a block device.' });
  }
  checkAccess(complain, field, path, path, constants.R_OK, 'read');
  if (write) checkAccess(complain, field, path, path, constants.W_OK, 'write to', mend);
}

/** `path` can be written: it is there and no directory, or can be created. */
export function checkOutputFile(complain: Complain, field: string, path: string): void {
  checkText(complain, field, path);
  const stats = statOrNothing(path);
  if (stats === undefined) {
    checkCreatable(complain, field, path);
    return;
  }
  if (stats.isDirectory()) {
    complain(field, path, {
      code: 'UNUSABLE_FILE',
      problem: `${showValue(path)} is a directory`,
      mend: 'Name a file.',
    });
  }
  checkAccess(complain, field, path, path, constants.W_OK, 'write to');
}

/** A Unix socket can be made at `path`: its directory can be written, and an address holds the path. */
export function checkNewSocket(complain: Complain, field: string, path: string): void {
  const length = Buffer.byteLength(path);
  if (length >= SUN_PATH_SIZE) {
    complain(field, path, {
      code: 'TOO_LONG',
      problem: `the path has ${length} bytes, which do not fit the ${SUN_PATH_SIZE} bytes of a Unix socket address`,
      mend: `Use a path of at most ${SUN_PATH_SIZE - 1} bytes.`,
    });
  }
  checkCreatable(complain, field, path);
}

/** `path` can be created: its directory exists and can be written. */
export function checkCreatable(complain: Complain, field: string, path: string, directory = dirname(path)): void {
  checkText(complain, field, path);
  if (!statOrComplain(complain, field, path, directory).isDirectory()) {
    complain(field, path, {
      code: 'UNUSABLE_FILE',
      problem: `${showValue(directory)} is not a directory`,
      mend: 'Name a path in a directory.',
    });
  }
  checkAccess(complain, field, path, directory, constants.W_OK | constants.X_OK, 'create files in');
}

export function isDirectory(path: string): boolean {
  return statOrNothing(path)?.isDirectory() === true;
}

/** The bytes of a regular file; undefined for what is none. */
export function regularFileSize(path: string): number | undefined {
  const stats = statOrNothing(path);
  return stats?.isFile() === true ? stats.size : undefined;
}

/**
 * What `path` leads to, whatever it is called: two paths that are the same file or block device have the same place.
 * Undefined for what may well have several users: terminals, /dev/null and the like.
 */
export function placeOf(path: string): string | undefined {
  const stats = statOrNothing(path);
  if (stats === undefined) return placeToBe(path);
  if (stats.isCharacterDevice() || stats.isFIFO()) return undefined;
  return stats.isBlockDevice() ? `block device ${stats.rdev}` : `inode ${stats.dev}:${stats.ino}`;
}

function placeToBe(path: string): string {
  const directory = statOrNothing(dirname(path));
  if (directory === undefined) return resolve(path);
  return `inode ${directory.dev}:${directory.ino}/${basename(path)}`;
}

function statOrNothing(path: string): Stats | undefined {
  try {
    return statSync(path, { throwIfNoEntry: false });
  } catch {
    // Who needs the file looks again and says why not.
    return undefined;
  }
}

function kindOf(stats: Stats): string {
  if (stats.isDirectory()) return 'a directory';
  if (stats.isSocket()) return 'a socket';
  return stats.isFIFO() ? 'a pipe' : 'a character device';
}

function checkText(complain: Complain, field: string, path: string): void {
  if (path === '') complain(field, path, { code: 'MISSING_VALUE', problem: 'the path is empty', mend: 'Name a file.' });
  if (path.includes('\0')) {
    complain(field, path, {
      code: 'UNUSABLE_FILE',
      problem: `${showValue(path)} holds a NUL byte, which no path can`,
      mend: 'Take it out.',
    });
  }
}

function statOrComplain(complain: Complain, field: string, path: string, wanted: string): Stats {
  try {
    return statSync(wanted);
  } catch (error) {
    const code = errorCode(error);
    if (code === 'ENOENT' || code === 'ENOTDIR') {
      const [what, mend] =
        wanted === path
          ? [showValue(wanted), 'Check the spelling.']
          : [`the directory ${showValue(wanted)}`, 'Create it, or choose another path.'];
      return complain(field, path, { code: 'NOT_FOUND', problem: `${what} does not exist`, mend }, error);
    }
    return complain(
      field,
      path,
      {
        code: 'UNUSABLE_FILE',
        problem: `${showValue(wanted)} cannot be looked at (${code ?? String(error)})`,
        mend: 'Check the permissions of the directories above it.',
      },
      error,
    );
  }
}

function checkAccess(
  complain: Complain,
  field: string,
  path: string,
  wanted: string,
  mode: number,
  verb: string,
  mend = 'Change its permissions, or choose another.',
): void {
  try {
    accessSync(wanted, mode);
  } catch (error) {
    complain(
      field,
      path,
      {
        code: 'UNUSABLE_FILE',
        problem: `there is no permission to ${verb} ${showValue(wanted)}`,
        mend,
      },
      error,
    );
  }
}
