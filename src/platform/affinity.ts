// Which host processors a thread may run on: sched_setaffinity(2).

import { check, libc } from './libc.js';
import { NativeBuffer } from './native-buffer.js';

const BITS_PER_BYTE = 8;
/** The kernel takes a mask of whole longs. */
const LONG_BYTES = 8;

/** Keeps the calling thread to the processors `cpus` (numbers as in /proc/cpuinfo). Throws SysError (EINVAL: none of them). */
export function setThreadAffinity(cpus: readonly number[]): void {
  const longs = Math.floor(Math.max(...cpus) / (BITS_PER_BYTE * LONG_BYTES)) + 1;
  const mask = new NativeBuffer(longs * LONG_BYTES);
  for (const cpu of cpus) mask.bytes[Math.floor(cpu / BITS_PER_BYTE)] |= 1 << (cpu % BITS_PER_BYTE);
  check(libc.sched_setaffinity(0, mask.bytes.length, mask.address), `sched_setaffinity to ${cpus.join()}`);
}
