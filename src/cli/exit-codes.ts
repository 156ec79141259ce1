// What the command's exit status says: the one table behind the code, --help and the README.

import { constants } from 'node:os';

export const EXIT_OK = 0;
export const EXIT_INTERNAL = 1;
export const EXIT_USAGE = 2;
export const EXIT_KVM = 3;
export const EXIT_CRASH = 4;
export const EXIT_PANIC = 5;
export const EXIT_TEST_FAILED = 6;
export const EXIT_TEST_TIMED_OUT = 7;

/** Of `tsvmm run` and `tsvmm exec`, whose other exit statuses are the program's: those of timeout(1), env(1) and docker. */
export const EXIT_RUN_TIMED_OUT = 124;
export const EXIT_RUN_FAILED = 125;
export const EXIT_RUN_NOT_EXECUTABLE = 126;
export const EXIT_RUN_NOT_FOUND = 127;

/** The shell's convention for a program that a signal ended: 128 and the signal's number. */
export const SIGNAL_EXITS = { SIGHUP: 129, SIGINT: 130, SIGTERM: 143 } as const;

export type EndingSignal = keyof typeof SIGNAL_EXITS;

/** Exit status to meaning, in ascending order. */
export const EXIT_CODES: readonly (readonly [code: number, meaning: string])[] = [
  [EXIT_OK, 'the guest shut down, or rebooted with --no-reboot, or Ctrl-A x ended it'],
  [EXIT_INTERNAL, 'a failure inside tsvmm or of the host'],
  [EXIT_USAGE, 'a mistake in the options or in a file that they name'],
  [EXIT_KVM, 'KVM cannot be used: no /dev/kvm, no permission, something missing in it'],
  [EXIT_CRASH, 'the guest crashed: triple fault, or an instruction that KVM cannot run'],
  [EXIT_PANIC, 'the guest panicked and said so through pvpanic, then the VM ended'],
  [EXIT_TEST_FAILED, 'a boot test failed: an expectation was not met'],
  [EXIT_TEST_TIMED_OUT, 'a boot test took too long, and none went wrong otherwise'],
  [SIGNAL_EXITS.SIGHUP, 'ended by SIGHUP: the terminal was closed'],
  [SIGNAL_EXITS.SIGINT, 'interrupted: Ctrl-C or SIGINT'],
  [SIGNAL_EXITS.SIGTERM, 'ended by SIGTERM'],
];

/** Exit statuses of `tsvmm run` and `tsvmm exec` to meanings, but for the program's own. */
export const RUN_EXIT_CODES: readonly (readonly [code: number, meaning: string])[] = [
  [EXIT_RUN_TIMED_OUT, 'run, exec: the program did not end within --timeout and was killed'],
  [EXIT_RUN_FAILED, 'run, exec: options, KVM, the guest or a copy failed'],
  [EXIT_RUN_NOT_EXECUTABLE, 'run, exec: the guest cannot execute the program'],
  [EXIT_RUN_NOT_FOUND, 'run, exec: the guest has no such program'],
];

/** The exit status for a program that `signal` ended. */
export function signalExit(signal: NodeJS.Signals | null): number {
  return signal === null ? EXIT_INTERNAL : 128 + ((constants.signals[signal] as number | undefined) ?? 0);
}

const KVM_CODES = new Set<unknown>(['KVM_NOT_FOUND', 'KVM_PERMISSION', 'KVM_CAPABILITY']);
/** VmError codes for what the user asked of the host: more memory than it has, a socket in use, a path out of reach. */
const REQUEST_CODES = new Set<unknown>([
  'MEMORY',
  'SOCKET_IN_USE',
  'HOST_PATH',
  'HOST_CPU',
  'DISK_IN_USE',
  'DISK_IMAGE',
  'TAP',
  'HOST_PORT',
  'TOO_MANY_DEVICES',
]);

/** The exit status for an error thrown while a VM was made or run. */
export function exitCodeFor(error: unknown): number {
  if (!(error instanceof Error)) return EXIT_INTERNAL;
  // By name, since the classes live in modules that a usage error must not have to load.
  switch (error.name) {
    case 'ConfigError':
    case 'BootError':
    case 'ImageError':
      return EXIT_USAGE;
    case 'VmError': {
      const code = 'code' in error ? error.code : undefined;
      if (KVM_CODES.has(code)) return EXIT_KVM;
      return REQUEST_CODES.has(code) ? EXIT_USAGE : EXIT_INTERNAL;
    }
    default:
      return EXIT_INTERNAL;
  }
}

/** Whether the error's message was written for the user and says what to do; others need their stack. */
export function isExpected(error: unknown): error is Error {
  return error instanceof Error && exitCodeFor(error) !== EXIT_INTERNAL;
}
