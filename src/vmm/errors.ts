// What can go wrong with a VM that is not the configuration's own fault: the host, KVM, or a path it names.

/** What went wrong with a VM. */
export type VmErrorCode =
  /** /dev/kvm does not exist. */
  | 'KVM_NOT_FOUND'
  /** /dev/kvm may not be opened by this user. */
  | 'KVM_PERMISSION'
  /** KVM is there but lacks something, or refused a call. */
  | 'KVM_CAPABILITY'
  /** Guest memory cannot be had. */
  | 'MEMORY'
  /** The vsock socket is held by a live process, or its path is something else. */
  | 'SOCKET_IN_USE'
  /** A host path (socket, serial file, disk) cannot be used. */
  | 'HOST_PATH'
  /** The host has not the processors, or the features of them, that were asked for. */
  | 'HOST_CPU'
  /** A disk image is held by another process, or twice by this VM. */
  | 'DISK_IN_USE'
  /** A disk image is there, but not one that can be used. */
  | 'DISK_IMAGE'
  /** A tap cannot be had, or not as it is asked for. */
  | 'TAP'
  /** A port of the host that the configuration publishes cannot be listened at. */
  | 'HOST_PORT'
  /** More devices than there are interrupt lines. */
  | 'TOO_MANY_DEVICES'
  /** The guest does not use ACPI, which is how it would hear of the power button. */
  | 'NO_POWER_BUTTON'
  /** The VM is not in a state in which that can be asked of it. */
  | 'NOT_RUNNING'
  /** A snapshot cannot be taken, or is not one that can be restored. */
  | 'SNAPSHOT'
  /** The guest's memory cannot be written to a core file. */
  | 'CORE_DUMP'
  /** A worker thread failed or did not answer: a bug of this project. */
  | 'INTERNAL';

/** A VM that cannot be built, or cannot do what it was asked for. `message` says what is wrong and ends with the `mend`. */
export class VmError extends Error {
  /** For those who cannot use `instanceof`. */
  override readonly name = 'VmError';
  /** What went wrong, for programs. */
  readonly code: VmErrorCode;
  /** What to do about it. */
  readonly mend: string;

  /** @internal */
  constructor(code: VmErrorCode, problem: string, mend: string, cause?: unknown) {
    super(`${problem}; ${mend}`, cause === undefined ? undefined : { cause });
    this.code = code;
    this.mend = mend;
  }
}

export function notRunning(what: string, cause?: unknown): VmError {
  return new VmError(
    'NOT_RUNNING',
    `a VM that does not run cannot ${what}`,
    'start it first, or make a new one',
    cause,
  );
}

/** What KVM says against a saved state, and what a thread that was to go on from it ended of. */
export function cannotGoOn(why: unknown): VmError {
  return new VmError(
    'SNAPSHOT',
    `the VM cannot go on from its snapshot: ${why instanceof Error ? why.message : String(why)}`,
    'restore it on a host like the one where it was saved, or take a new one',
    why,
  );
}

/** Throws VmError INTERNAL when there are any: `names` are of threads that did not end. */
export function throwIfStuck(names: readonly string[]): void {
  if (names.length === 0) return;
  throw new VmError(
    'INTERNAL',
    `the ${names.join(' and ')} worker did not end in time`,
    'this is a bug of tsvmm: please report it; end the process to free what it holds',
  );
}
