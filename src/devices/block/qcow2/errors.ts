// What can be wrong with a qcow2 image or the chain of files behind it, found before a guest sees the disk. On the main
// thread src/vmm/attach/block.ts turns it into the error that the user reads.

export type QcowErrorCode =
  /** Not a qcow2 file: the magic is another. */
  | 'not-qcow2'
  /** A version other than 2 and 3. */
  | 'version'
  /** A header that contradicts itself or the file's size. */
  | 'bad-header'
  /** A feature that is not supported: encryption, an external data file, a compression, an unknown feature bit. */
  | 'unsupported'
  /** The image says that it is damaged, or its tables claim one cluster twice. */
  | 'corrupt'
  /** The image was not closed cleanly and its reference counts are not to be trusted. */
  | 'dirty'
  /** The host could not read the file; `cause` has the errno. */
  | 'io'
  /** The image names a backing file although that is not allowed. */
  | 'backing-refused'
  /** The backing file cannot be opened, or is named in a way that is not supported. */
  | 'backing-file'
  /** A file is its own backing file, directly or through others. */
  | 'backing-loop'
  /** More files behind each other than `MAX_CHAIN_LENGTH`. */
  | 'backing-depth';

/** An image that cannot be used. */
export class QcowError extends Error {
  override readonly name = 'QcowError';
  readonly code: QcowErrorCode;
  /** The file that is at fault. */
  readonly path: string;
  /** What is wrong. */
  readonly detail: string;
  /** What the user can do about it. */
  readonly mend: string;

  constructor(code: QcowErrorCode, path: string, detail: string, mend: string, cause?: unknown) {
    super(`${path}: ${detail}; ${mend}`, cause === undefined ? undefined : { cause });
    this.code = code;
    this.path = path;
    this.detail = detail;
    this.mend = mend;
  }
}

/** For tables and headers that are not what they should be. */
export function checkMend(path: string): string {
  return `look with "qemu-img check ${path}", or take the image from a copy`;
}
