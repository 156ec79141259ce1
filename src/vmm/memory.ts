// Allocates guest RAM: one memfd, mapped over SharedArrayBuffers in chunks. Main thread.
//
//   0 ............ 3 GiB | device hole | 4 GiB ............
//   chunk 0  chunk 1 ... |             | more chunks
//
// One allocation is at once V8 views in every thread, KVM memory slots, and a file.

import { totalmem } from 'node:os';
import { DEVICE_HOLE_END, DEVICE_HOLE_START } from '../boot/layout.js';
import type { MemoryChunk, MemoryMap } from '../platform/guest-memory.js';
import { createMemfd, mapOverSharedBuffer, unmapFromSharedBuffer } from '../platform/mapping.js';
import { check, close, libc } from '../platform/libc.js';
import { formatBytes, GIB, guestAddress, type Fd } from '../platform/units.js';
import { VmError } from './errors.js';

const FALLOC_FL_KEEP_SIZE = 1;
const FALLOC_FL_PUNCH_HOLE = 2;

/** Element indices into a chunk's byte view stay below 2^31, on V8's fast path. */
const MAX_CHUNK_SIZE = 2 * GIB;

interface Range {
  readonly gpa: number;
  readonly size: number;
}

/** Where `size` bytes of RAM go: pieces of at most 2 GiB, none of them in the device hole. */
export function planMemory(size: number): Range[] {
  const ranges: Range[] = [];
  const addRange = (start: number, length: number): void => {
    for (let done = 0; done < length; done += MAX_CHUNK_SIZE) {
      ranges.push({ gpa: start + done, size: Math.min(MAX_CHUNK_SIZE, length - done) });
    }
  };
  addRange(0, Math.min(size, DEVICE_HOLE_START));
  addRange(DEVICE_HOLE_END, Math.max(0, size - DEVICE_HOLE_START));
  return ranges;
}

/** Guest RAM and the file behind it. `close` unmaps and releases it once no thread and no VM uses it any more. */
export class AllocatedMemory {
  readonly map: MemoryMap;
  readonly fd: Fd;
  private closed = false;

  /** `size` is a multiple of 4096. Throws VmError MEMORY when the host cannot hold it. */
  constructor(size: number) {
    if (size > totalmem()) {
      throw new VmError(
        'MEMORY',
        `--memory size=${formatBytes(size)} is more than the ${formatBytes(totalmem())} this host has`,
        'ask for less',
      );
    }
    let fd: Fd | undefined;
    const chunks: MemoryChunk[] = [];
    try {
      fd = createMemfd('tsvmm-guest-ram', size);
      let fileOffset = 0;
      for (const range of planMemory(size)) {
        const mapped = mapOverSharedBuffer(fd, fileOffset, range.size);
        chunks.push({
          guestAddress: guestAddress(range.gpa),
          size: range.size,
          hostAddress: mapped.address,
          buffer: mapped.buffer,
          bufferOffset: mapped.offset,
          fileOffset,
        });
        fileOffset += range.size;
      }
    } catch (error) {
      releaseChunks(chunks);
      if (fd !== undefined) close(fd);
      throw new VmError('MEMORY', `${formatBytes(size)} of guest memory cannot be mapped`, 'ask for less', error);
    }
    this.fd = fd;
    this.map = chunks;
  }

  /** Makes all of it zeroes again and gives its pages back to the host. Nobody may use it meanwhile. */
  clear(): void {
    const size = this.map.reduce((sum, chunk) => sum + chunk.size, 0);
    const mode = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE;
    check(libc.fallocate(this.fd, mode, 0, size), 'fallocate guest memory');
  }

  close(): void {
    if (this.closed) return;
    this.closed = true;
    releaseChunks(this.map);
    close(this.fd);
  }
}

function releaseChunks(chunks: MemoryMap): void {
  for (const chunk of chunks) unmapFromSharedBuffer({ address: chunk.hostAddress, size: chunk.size });
}
