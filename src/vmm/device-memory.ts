// Guest-physical addresses above RAM, for devices that show memory of their own. Main thread.
//
//   ... RAM | gap | device memory | gap | device memory | ...    each from a multiple of 128 MiB on

import { DEVICE_HOLE_END } from '../boot/layout.js';
import type { MemoryMap } from '../platform/guest-memory.js';
import { alignUp, formatBytes, guestAddress, MIB, type GuestAddress } from '../platform/units.js';
import { VmError } from './errors.js';

/** Linux adds memory to itself in sections of this size. */
const ALIGNMENT = 128 * MIB;

export class DeviceMemorySpace {
  private next: number;
  private readonly end: number;

  /** Above `ram`, where the guest's processors have addresses of `addressBits` bits. */
  constructor(ram: MemoryMap, addressBits: number) {
    const ramEnd = ram.reduce((end, chunk) => Math.max(end, chunk.guestAddress + chunk.size), DEVICE_HOLE_END);
    this.next = alignUp(ramEnd, ALIGNMENT);
    this.end = 2 ** addressBits;
  }

  /** The start of `size` bytes for the device that `option` describes. Throws VmError MEMORY when there are none left. */
  allocate(option: string, size: number): GuestAddress {
    const start = this.next;
    if (start + size > this.end) {
      throw new VmError(
        'MEMORY',
        `${option}: the processors' addresses end at ${formatBytes(this.end)}, and ${formatBytes(size)} more do not fit`,
        'use a smaller file, or less memory',
      );
    }
    this.next = alignUp(start + size, ALIGNMENT);
    return guestAddress(start);
  }
}
