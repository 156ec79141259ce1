// What can be wrong with the material of an image, or with the place where it is to be put. Each error says which file, and
// which entry of it, what is wrong, and how to mend it.

/** What is wrong with the material of an image, or with the place for it. */
export type ImageErrorCode =
  /** A folder, program, archive or blob that is not there. */
  | 'not-found'
  /** This user may not read it, or not write the image. */
  | 'no-permission'
  /** Something of another kind where a file or a folder is needed. */
  | 'wrong-kind'
  /** The host could not read or write; `cause` has the errno. */
  | 'io'
  /** The disk, or the file system being made, is full. */
  | 'no-space'
  /** Data that end before what their headers promise. */
  | 'truncated'
  /** A tar header that contradicts itself. */
  | 'bad-tar'
  /** Compressed data that are damaged. */
  | 'bad-gzip'
  /** A format, or a part of one, that is not known here. */
  | 'unsupported'
  /** An entry with ".." in its name. */
  | 'path-traversal'
  /** An entry that a symbolic link would put outside the image. */
  | 'symlink-escape'
  /** A device node, where those are not allowed. */
  | 'device-node'
  /** A hard link to nothing or to a directory, or symbolic links in a circle. */
  | 'bad-link'
  /** An entry below something that is no directory, or with a name that no file system takes. */
  | 'bad-name'
  /** More bytes or entries than are allowed, or than the format can say. */
  | 'too-large'
  /** Content that is not what its digest says. */
  | 'digest-mismatch'
  /** A JSON document of an image that is not as its specification says. */
  | 'bad-manifest'
  /** No image of that name, or several and no name. */
  | 'no-such-image'
  /** An image or a program for another machine. */
  | 'wrong-machine'
  /** An ELF file that contradicts itself. */
  | 'bad-elf'
  /** A library that a program needs and that is nowhere. */
  | 'missing-library'
  /** A kernel's modules whose index contradicts itself, or a file that is no module. */
  | 'bad-modules'
  /** A program that makes file systems is not installed. */
  | 'missing-tool'
  /** A program that makes file systems is installed, and failed. */
  | 'tool-failed'
  /** A file that changed while it was read. */
  | 'changed';

/** An image that cannot be built. Nothing new is under the output's name then. */
export class ImageError extends Error {
  /** For those who cannot use `instanceof`. */
  override readonly name = 'ImageError';
  /** What is wrong, for programs. */
  readonly code: ImageErrorCode;
  /** The file or folder at fault. */
  readonly file: string;
  /** What is wrong. */
  readonly detail: string;
  /** What the user can do about it. */
  readonly mend: string;

  /** @internal */
  constructor(code: ImageErrorCode, file: string, detail: string, mend: string, cause?: unknown) {
    super(`${file}: ${detail}; ${mend}`, cause === undefined ? undefined : { cause });
    this.code = code;
    this.file = file;
    this.detail = detail;
    this.mend = mend;
  }
}

/** The ImageError for a system call that failed on `file`; what is no such failure is given back as it is. */
export function hostFailure(file: string, error: unknown): unknown {
  const code =
    error instanceof ImageError || typeof error !== 'object' || error === null || !('code' in error)
      ? undefined
      : error.code;
  switch (code) {
    case 'ENOENT':
    case 'ENOTDIR':
      return new ImageError('not-found', file, 'it does not exist', 'check the path', error);
    case 'EACCES':
    case 'EPERM':
      return new ImageError('no-permission', file, 'this user has no permission', 'make it accessible', error);
    case 'ENOSPC':
    case 'EDQUOT':
      return new ImageError('no-space', file, 'the disk is full', 'make room, or name an output elsewhere', error);
    case 'ELOOP':
      return new ImageError(
        'wrong-kind',
        file,
        'a symbolic link where a file is needed',
        'name the file itself',
        error,
      );
    default:
      if (typeof code !== 'string' || !/^E[A-Z0-9]+$/.test(code) || code.startsWith('ERR_')) return error;
      return new ImageError('io', file, `the host cannot read or write it (${code})`, 'check the disk it is on', error);
  }
}
