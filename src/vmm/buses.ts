// The two buses of the machine, as one vCPU thread sees them: port I/O and memory-mapped I/O. vCPU worker.
//
// What nobody answers reads as all ones and ignores writes, as an empty ISA slot does.

import { MMIO_DEVICE_SIZE, type MmioRegisters } from '../devices/virtio/mmio.js';

/** A device on the port bus; offsets count from its first port. `read` and `write` are accesses of a single byte. */
export interface PortDevice {
  read(offset: number): number;
  write(offset: number, value: number): void;
  /**
   * Accesses of 2 or 4 bytes, little-endian, that begin at a port of the device: for registers that wide. A device without
   * them gets its bytes one by one.
   */
  readWide?(offset: number, size: number): number;
  writeWide?(offset: number, size: number, value: number): void;
  /** Many bytes to one port: what `rep outsb` hands over in one exit. */
  writeString?(bytes: Uint8Array): void;
}

/** Where virtio-mmio devices are: one page each from here on. Same as Firecracker's. */
export const VIRTIO_MMIO_BASE = 0xd000_0000;

const PORT_COUNT = 0x1_0000;
const FLOATING_BYTE = 0xff;

/** A device and where its ports begin. */
interface PortSlot {
  readonly device: PortDevice;
  readonly base: number;
}

/** Port I/O: a table look-up per access. */
export class PortBus {
  private readonly slots: (PortSlot | undefined)[] = new Array<PortSlot | undefined>(PORT_COUNT).fill(undefined);

  /** Puts `device` at ports [base, base + count). */
  add(base: number, count: number, device: PortDevice): void {
    this.slots.fill({ device, base }, base, base + count);
  }

  /** One byte read from `port`. */
  readByte(port: number): number {
    const slot = this.slots[port];
    return slot === undefined ? FLOATING_BYTE : slot.device.read(port - slot.base);
  }

  /** One byte written to `port`. */
  writeByte(port: number, value: number): void {
    const slot = this.slots[port];
    if (slot !== undefined) slot.device.write(port - slot.base, value);
  }

  /**
   * `count` reads of `size` bytes from `port` into `data`. A wide access reaches the ports behind the first one, as it does
   * on an 8-bit ISA bus, unless the device there has wider registers.
   */
  read(port: number, size: number, count: number, data: Uint8Array): void {
    const slot = this.slots[port];
    if (size > 1 && slot?.device.readWide !== undefined) {
      for (let element = 0; element < count; element++) {
        const value = slot.device.readWide(port - slot.base, size);
        for (let byte = 0; byte < size; byte++) data[element * size + byte] = value >>> (8 * byte);
      }
      return;
    }
    for (let element = 0; element < count; element++) {
      for (let byte = 0; byte < size; byte++) {
        data[element * size + byte] = this.readByte((port + byte) & 0xffff);
      }
    }
  }

  /** `count` writes of `size` bytes each from `data` to `port`. */
  write(port: number, size: number, count: number, data: Uint8Array): void {
    const slot = this.slots[port];
    if (count > 1 && size === 1 && slot?.base === port && slot.device.writeString !== undefined) {
      slot.device.writeString(data.subarray(0, count));
      return;
    }
    if (size > 1 && slot?.device.writeWide !== undefined) {
      for (let element = 0; element < count; element++) {
        let value = 0;
        for (let byte = 0; byte < size; byte++) value |= data[element * size + byte] << (8 * byte);
        slot.device.writeWide(port - slot.base, size, value >>> 0);
      }
      return;
    }
    for (let element = 0; element < count; element++) {
      for (let byte = 0; byte < size; byte++) {
        this.writeByte((port + byte) & 0xffff, data[element * size + byte]);
      }
    }
  }
}

/** Memory-mapped I/O: virtio devices in consecutive pages. */
export class MmioBus {
  private readonly devices: readonly MmioRegisters[];

  constructor(devices: readonly MmioRegisters[]) {
    this.devices = devices;
  }

  /** A read of `size` (1, 2, 4 or 8) bytes at guest-physical `address`, little-endian into `data`. */
  read(address: number, size: number, data: DataView, at: number): void {
    const device = this.deviceAt(address);
    const offset = (address - VIRTIO_MMIO_BASE) % MMIO_DEVICE_SIZE;
    for (let done = 0; done < size; done += 4) {
      const width = Math.min(4, size - done);
      const value = device === undefined ? 0xffff_ffff : device.read(offset + done, width);
      if (width === 4) data.setUint32(at + done, value, true);
      else if (width === 2) data.setUint16(at + done, value, true);
      else data.setUint8(at + done, value);
    }
  }

  /** A write of `size` (1, 2, 4 or 8) bytes at guest-physical `address`, little-endian from `data`. */
  write(address: number, size: number, data: DataView, at: number): void {
    const device = this.deviceAt(address);
    if (device === undefined) return;
    const offset = (address - VIRTIO_MMIO_BASE) % MMIO_DEVICE_SIZE;
    for (let done = 0; done < size; done += 4) {
      const width = Math.min(4, size - done);
      const value =
        width === 4
          ? data.getUint32(at + done, true)
          : width === 2
            ? data.getUint16(at + done, true)
            : data.getUint8(at + done);
      device.write(offset + done, width, value);
    }
  }

  private deviceAt(address: number): MmioRegisters | undefined {
    if (address < VIRTIO_MMIO_BASE) return undefined;
    return this.devices[Math.floor((address - VIRTIO_MMIO_BASE) / MMIO_DEVICE_SIZE)];
  }
}
