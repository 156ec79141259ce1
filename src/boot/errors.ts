// What can be wrong with a kernel, an initramfs, a command line or the memory they must fit in.
//
// All of it is the caller's mistake (or their disk's), found before the guest starts: each error says what is wrong
// with which file, and how to mend it.

/** What is wrong with what is to be booted. */
export type BootErrorCode =
  /** The file does not exist. */
  | 'not-found'
  /** This user may not read the file. */
  | 'no-permission'
  /** A directory, socket, FIFO or device. */
  | 'not-a-file'
  /** The host could not read the file; `cause` has the errno. */
  | 'io'
  /** A file of no bytes. */
  | 'empty'
  /** The file ends before what its headers promise. */
  | 'truncated'
  /** Neither an ELF file nor a bzImage, but something else, named in the message. */
  | 'wrong-format'
  /** A kernel for another machine, word size or byte order. */
  | 'wrong-machine'
  /** An ELF file for this machine that is no kernel: an object file, a library, a program, a core dump. */
  | 'not-a-kernel'
  /** ELF headers that contradict themselves. */
  | 'bad-elf'
  /** A setup header that contradicts itself. */
  | 'bad-bzimage'
  /** A bzImage from before boot protocol 2.12, which has no 64-bit entry point to rely on. */
  | 'old-protocol'
  /** A segment or entry point where this monitor cannot put it, whatever the memory size. */
  | 'bad-placement'
  /** The kernel needs more memory than the guest has. */
  | 'memory-too-small'
  /** The initramfs does not fit beside the kernel. */
  | 'initramfs-too-large'
  /** The command line, with what is added for devices, is longer than the kernel takes. */
  | 'cmdline-too-long'
  /** The command line has a NUL character in it. */
  | 'cmdline-invalid'
  /** More vCPUs than the MP table can tell of. */
  | 'too-many-cpus';

/** A guest that cannot be loaded: its kernel, initramfs or command line is at fault, or there is too little memory for it. */
export class BootError extends Error {
  /** For those who cannot use `instanceof`. */
  override readonly name = 'BootError';
  /** What is wrong, for programs. */
  readonly code: BootErrorCode;
  /** The file that is at fault, if it is a file. */
  readonly path: string | undefined;
  /** What is wrong. */
  readonly detail: string;
  /** What the user can do about it. */
  readonly mend: string;

  /** @internal */
  constructor(code: BootErrorCode, detail: string, mend: string, about: { path?: string; cause?: unknown } = {}) {
    const where = about.path === undefined ? '' : `${about.path}: `;
    super(`${where}${detail}; ${mend}`, about.cause === undefined ? undefined : { cause: about.cause });
    this.code = code;
    this.path = about.path;
    this.detail = detail;
    this.mend = mend;
  }
}
