// Rules about paths: what must exist before a machine is built. Looking now does not promise that the file is still
// there when it is opened; it only lets the common mistakes be told in terms of the option that made them.

import { accessSync, constants, statSync, type Stats } from 'node:fs';
import { dirname } from 'node:path';
import { showValue } from '../config-error.js';
import { errorCode } from '../error-code.js';
import type { Complain } from './rule.js';

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

/** `path` can be created: its directory exists and can be written. */
export function checkCreatable(complain: Complain, field: string, path: string): void {
  checkText(complain, field, path);
  const directory = dirname(path);
  if (!statOrComplain(complain, field, path, directory).isDirectory()) {
    complain(field, path, {
      code: 'UNUSABLE_FILE',
      problem: `${showValue(directory)} is not a directory`,
      mend: 'Name a path in a directory.',
    });
  }
  checkAccess(complain, field, path, directory, constants.W_OK | constants.X_OK, 'create files in');
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
        mend: 'Change its permissions, or choose another.',
      },
      error,
    );
  }
}
