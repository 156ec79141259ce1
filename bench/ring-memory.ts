// Guest memory for a bench that drives a device's ring without a VM.

import { GuestMemory, type ChunkView } from '../src/platform/guest-memory.js';
import { mapOverSharedBuffer, unmapFromSharedBuffer } from '../src/platform/mapping.js';
import { guestAddress } from '../src/platform/units.js';

/** `size` bytes of zeroes from guest address 0 on, in one chunk. `close` gives its pages back. */
export class RingMemory {
  readonly memory: GuestMemory;
  readonly chunk: ChunkView;

  constructor(size: number) {
    const mapped = mapOverSharedBuffer({ kind: 'anonymous' }, size);
    this.memory = new GuestMemory([
      {
        guestAddress: guestAddress(0),
        size,
        hostAddress: mapped.address,
        buffer: mapped.buffer,
        bufferOffset: mapped.offset,
        backing: { kind: 'anonymous' },
      },
    ]);
    [this.chunk] = this.memory.chunks;
  }

  close(): void {
    unmapFromSharedBuffer({ address: this.chunk.hostAddress, size: this.chunk.size });
  }
}
