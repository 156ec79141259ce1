// Which host processors a thread may run on: sched_getaffinity(2), sched_setaffinity(2).

import { check, libc } from './libc.js';
import { NativeBuffer } from './native-buffer.js';

const BITS_PER_BYTE = 8;
/** The kernel takes a mask of whole longs. */
const LONG_BYTES = 8;

/** Processors that a mask has room for: more than any kernel is built for. */
const MAX_CPUS = 8192;

/**
 * Keeps the calling thread to the processors `cpus` (numbers as in /proc/cpuinfo), until the function that is returned is
 * called. Both throw SysError (EINVAL: none of them).
 */
export function bindThread(cpus: readonly number[]): () => void {
  const before = new NativeBuffer(MAX_CPUS / BITS_PER_BYTE);
  check(libc.sched_getaffinity(0, before.byteLength, before.address), 'sched_getaffinity');
  const longs = Math.floor(Math.max(...cpus) / (BITS_PER_BYTE * LONG_BYTES)) + 1;
  const mask = new NativeBuffer(longs * LONG_BYTES);
  for (const cpu of cpus) mask.bytes[Math.floor(cpu / BITS_PER_BYTE)] |= 1 << (cpu % BITS_PER_BYTE);
  check(libc.sched_setaffinity(0, mask.byteLength, mask.address), `sched_setaffinity to ${cpus.join()}`);
  return () => {
    check(libc.sched_setaffinity(0, before.byteLength, before.address), 'sched_setaffinity');
  };
}
