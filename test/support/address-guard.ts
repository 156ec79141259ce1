// Watches the addresses that a device hands to the kernel and to memcpy: all of them must be guest RAM, the memory of
// a ring that the device made for bytes that wait, or what else the test knows to be the device's own.
//
// The calls are wrapped where they are bound (the `libc` object), so what is checked is what the real call gets.

import { IovecArray } from '../../src/platform/iovec.js';
import { addressOf, libc } from '../../src/platform/libc.js';
import type { NativeBuffer } from '../../src/platform/native-buffer.js';
import { ByteRing, RingPool } from '../../src/vsock/byte-ring.js';
import type { GuardedRam } from './guarded-ram.js';

type Calls = { -readonly [K in 'readv' | 'writev' | 'memcpy']: (typeof libc)[K] };

export class AddressGuard implements Disposable {
  /** How many entries were checked: a guard that sees nothing proves nothing. */
  checked = 0;
  private readonly ram: GuardedRam;
  private readonly own: () => readonly NativeBuffer[];
  private readonly rings = new Map<number, number>();
  private readonly restore: () => void;
  /** The vector that the next call gets, and from where on. */
  private vector: IovecArray | undefined;
  private first = 0;

  constructor(ram: GuardedRam, own: () => readonly NativeBuffer[] = () => []) {
    this.ram = ram;
    this.own = own;
    const calls = libc as Calls;
    const { readv, writev, memcpy } = calls;
    // eslint-disable-next-line @typescript-eslint/unbound-method -- put back as it was, and called on its objects
    const { entryAddress } = IovecArray.prototype;
    // eslint-disable-next-line @typescript-eslint/unbound-method -- as above
    const { take } = RingPool.prototype;
    // eslint-disable-next-line @typescript-eslint/no-this-alias -- the replacements have a `this` of their own
    const guard = this;
    IovecArray.prototype.entryAddress = function (index) {
      guard.vector = this;
      guard.first = index;
      return entryAddress.call(this, index);
    };
    RingPool.prototype.take = function () {
      const ring = take.call(this);
      guard.addRing(ring);
      return ring;
    };
    calls.readv = (fd, iov, count) => {
      this.checkVector(iov, count);
      return readv(fd, iov, count);
    };
    calls.writev = (fd, iov, count) => {
      this.checkVector(iov, count);
      return writev(fd, iov, count);
    };
    calls.memcpy = (target, source, count) => {
      this.check('memcpy to', target, count);
      this.check('memcpy from', source, count);
      memcpy(target, source, count);
    };
    this.restore = () => {
      Object.assign(calls, { readv, writev, memcpy });
      IovecArray.prototype.entryAddress = entryAddress;
      RingPool.prototype.take = take;
    };
  }

  [Symbol.dispose](): void {
    this.restore();
  }

  /** Lets `memory` be handed over, too. */
  allow(memory: SharedArrayBuffer): void {
    this.rings.set(addressOf(new Uint8Array(memory)), memory.byteLength);
  }

  /** Takes back everything that was allowed. */
  forget(): void {
    this.rings.clear();
  }

  private addRing(ring: ByteRing): void {
    const { memory } = ring as unknown as { memory: NativeBuffer };
    this.rings.set(memory.address, memory.byteLength);
  }

  private checkVector(iov: number, count: number): void {
    const { vector, first } = this;
    if (vector?.address !== iov - first * 16) throw new Error('a vector that no IovecArray gave the address of');
    if (first + count > vector.capacity) throw new Error('a vector beyond its array');
    // A single entry is the line of a client that says hello: into a buffer of the listener's, and taken from nowhere else.
    if (vector.capacity === 1) return;
    for (let entry = first; entry < first + count; entry++) {
      this.check('vector entry', vector.addressAt(entry), vector.lengthAt(entry));
    }
  }

  private check(what: string, address: number, length: number): void {
    this.checked++;
    if (this.ram.holds(address, length)) return;
    for (const [start, size] of this.rings) if (address >= start && address + length <= start + size) return;
    for (const memory of this.own()) {
      if (address >= memory.address && address + length <= memory.address + memory.byteLength) return;
    }
    throw new Error(`${what}: ${length} bytes at 0x${address.toString(16)} are neither guest RAM nor a ring`);
  }
}
