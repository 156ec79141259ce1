// Guest RAM between canaries: every byte around it, in the memory file and in the buffers, has a known value, so a stray
// write by JavaScript, by the kernel or through the file does not go unnoticed.

import { GuestMemory, type MemoryChunk } from '../../src/platform/guest-memory.js';
import { close } from '../../src/platform/libc.js';
import { createMemfd, mapOverSharedBuffer, unmapFromSharedBuffer } from '../../src/platform/mapping.js';
import { guestAddress, PAGE_SIZE, type Fd } from '../../src/platform/units.js';

const CANARY = 0xa5;
const GUARD = 2 * PAGE_SIZE;

interface Piece {
  readonly gpa: number;
  readonly size: number;
}

export class GuardedRam implements Disposable {
  readonly memory: GuestMemory;
  readonly chunks: readonly MemoryChunk[];
  private readonly fd: Fd;
  private readonly guards: Buffer[] = [];
  private readonly expected: Buffer[] = [];

  /** RAM at the given places: GUARD bytes of canary before and after each, in the file as in memory. */
  constructor(...pieces: readonly Piece[]) {
    const total = pieces.reduce((sum, { size }) => sum + size + 2 * GUARD, 0);
    const fd = createMemfd('test-guarded-ram', total);
    let fileOffset = 0;
    this.chunks = pieces.map(({ gpa, size }) => {
      const mapped = mapOverSharedBuffer({ kind: 'shared-file', fd, offset: fileOffset }, size + 2 * GUARD);
      // The buffer is a page larger than the mapping: what surrounds the mapping in it is guarded, too.
      const end = mapped.offset + GUARD + size;
      this.guard(Buffer.from(mapped.buffer, 0, mapped.offset + GUARD));
      this.guard(Buffer.from(mapped.buffer, end, mapped.buffer.byteLength - end));
      const chunk: MemoryChunk = {
        guestAddress: guestAddress(gpa),
        size,
        hostAddress: (mapped.address + GUARD) as MemoryChunk['hostAddress'],
        buffer: mapped.buffer,
        bufferOffset: mapped.offset + GUARD,
        backing: { kind: 'memory-file', fd, offset: fileOffset + GUARD, pageSize: PAGE_SIZE },
      };
      fileOffset += size + 2 * GUARD;
      return chunk;
    });
    this.fd = fd;
    this.memory = new GuestMemory(this.chunks);
  }

  /** Whether [address, address + length) of this process is guest RAM, all in one piece. */
  holds(address: number, length: number): boolean {
    for (const { hostAddress, size } of this.chunks) {
      if (address >= hostAddress && address + length <= hostAddress + size) return true;
    }
    return false;
  }

  /** Fills all RAM with zeroes. */
  clear(): void {
    for (const { bytes } of this.memory.chunks) bytes.fill(0);
  }

  /** Throws when a byte around RAM has changed. */
  check(): void {
    this.guards.forEach((guard, index) => {
      if (!guard.equals(this.expected[index])) throw new Error(`memory outside guest RAM was written (guard ${index})`);
    });
  }

  [Symbol.dispose](): void {
    for (const { hostAddress, size } of this.chunks) {
      unmapFromSharedBuffer({ address: (hostAddress - GUARD) as MemoryChunk['hostAddress'], size: size + 2 * GUARD });
    }
    close(this.fd);
  }

  private guard(bytes: Buffer): void {
    bytes.fill(CANARY);
    this.guards.push(bytes);
    this.expected.push(Buffer.from(bytes));
  }
}
