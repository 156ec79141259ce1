// Guest RAM for tests that need no VM.

import { GuestMemory, type MemoryMap } from '../../src/platform/guest-memory.js';
import { close } from '../../src/platform/libc.js';
import { createMemfd, mapOverSharedBuffer, unmapFromSharedBuffer } from '../../src/platform/mapping.js';
import { guestAddress, PAGE_SIZE, type Fd } from '../../src/platform/units.js';

/** RAM of the given pieces, with the memory file behind it. */
export interface TestRam extends Disposable {
  readonly memory: GuestMemory;
  readonly map: MemoryMap;
  readonly fd: Fd;
}

/** Allocates RAM at the given places; the pieces stand one after the other in the memory file. */
export function allocateRam(...pieces: readonly { gpa: number; size: number }[]): TestRam {
  const fd = createMemfd(
    'tsvmm-test-ram',
    pieces.reduce((sum, { size }) => sum + size, 0),
  );
  let fileOffset = 0;
  const map = pieces.map(({ gpa, size }) => {
    const mapped = mapOverSharedBuffer({ kind: 'shared-file', fd, offset: fileOffset }, size);
    const chunk = {
      guestAddress: guestAddress(gpa),
      size,
      hostAddress: mapped.address,
      buffer: mapped.buffer,
      bufferOffset: mapped.offset,
      backing: { kind: 'memory-file', fd, offset: fileOffset, pageSize: PAGE_SIZE } as const,
    };
    fileOffset += size;
    return chunk;
  });
  return {
    memory: new GuestMemory(map),
    map,
    fd,
    [Symbol.dispose]() {
      for (const chunk of map) unmapFromSharedBuffer({ address: chunk.hostAddress, size: chunk.size });
      close(fd);
    },
  };
}
