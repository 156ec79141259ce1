// A VM's file descriptor: memory slots, interrupt chips, irqfds and ioeventfds. Main thread, before the vCPUs run.

import { check, close, closeElsewhere, libc } from '../../platform/libc.js';
import type { MemoryMap } from '../../platform/guest-memory.js';
import { NativeBuffer } from '../../platform/native-buffer.js';
import type { Fd } from '../../platform/units.js';
import {
  IOEVENTFD,
  IRQFD,
  KVM_CREATE_IRQCHIP,
  KVM_CREATE_PIT2,
  KVM_IOEVENTFD,
  KVM_IOEVENTFD_FLAG_DATAMATCH,
  KVM_IRQFD,
  KVM_PIT_SPEAKER_DUMMY,
  KVM_SIGNAL_MSI,
  KVM_SET_IDENTITY_MAP_ADDR,
  KVM_SET_TSS_ADDR,
  KVM_SET_USER_MEMORY_REGION,
  MEMORY_REGION,
  MSI,
  MSI_ADDRESS_BROADCAST,
  MSI_DATA_NMI,
  PIT_CONFIG_SIZE,
} from './abi.js';
import type { KvmSystem } from './system.js';

// Scratch pages that Intel hosts without "unrestricted guest" need for real mode: three pages and one, in the device
// hole where no RAM or device is.
const TSS_ADDRESS = 0xfffb_d000;
const IDENTITY_MAP_ADDRESS = 0xfffb_c000;

/** One VM. Every method throws SysError. */
export class KvmVm {
  readonly fd: Fd;

  /**
   * Creates the VM with every chunk of guest memory as a memory slot, and with the in-kernel PIC, IOAPIC, local APICs and
   * PIT. In this order: a slot that is added after the chips has to wait for the kernel to be rid of their old tables, 8 ms on
   * a kernel that ticks 250 times a second.
   */
  constructor(system: KvmSystem, memory: MemoryMap) {
    this.fd = system.createVm();
    try {
      this.setMemory(memory);
      check(libc.ioctl(this.fd, KVM_SET_TSS_ADDR, TSS_ADDRESS), 'ioctl KVM_SET_TSS_ADDR');
      const address = new NativeBuffer(8);
      address.setU64(0, IDENTITY_MAP_ADDRESS);
      check(libc.ioctl(this.fd, KVM_SET_IDENTITY_MAP_ADDR, address.address), 'ioctl KVM_SET_IDENTITY_MAP_ADDR');
      check(libc.ioctl(this.fd, KVM_CREATE_IRQCHIP, 0), 'ioctl KVM_CREATE_IRQCHIP');
      const pit = new NativeBuffer(PIT_CONFIG_SIZE);
      pit.setU32(0, KVM_PIT_SPEAKER_DUMMY);
      check(libc.ioctl(this.fd, KVM_CREATE_PIT2, pit.address), 'ioctl KVM_CREATE_PIT2');
    } catch (error) {
      close(this.fd);
      throw error;
    }
  }

  /** Every signal of `eventFd` becomes an edge on interrupt line `gsi`. */
  addIrqFd(eventFd: Fd, gsi: number): void {
    const irqfd = new NativeBuffer(IRQFD.SIZE);
    irqfd.setU32(IRQFD.FD, eventFd);
    irqfd.setU32(IRQFD.GSI, gsi);
    check(libc.ioctl(this.fd, KVM_IRQFD, irqfd.address), 'ioctl KVM_IRQFD');
  }

  /** A 32-bit write of `value` to guest-physical `address` signals `eventFd` instead of leaving KVM_RUN. */
  addMmioEventFd(eventFd: Fd, address: number, value: number): void {
    const ioeventfd = new NativeBuffer(IOEVENTFD.SIZE);
    ioeventfd.setU64(IOEVENTFD.DATAMATCH, value);
    ioeventfd.setU64(IOEVENTFD.ADDR, address);
    ioeventfd.setU32(IOEVENTFD.LEN, 4);
    ioeventfd.setU32(IOEVENTFD.FD, eventFd);
    ioeventfd.setU32(IOEVENTFD.FLAGS, KVM_IOEVENTFD_FLAG_DATAMATCH);
    check(libc.ioctl(this.fd, KVM_IOEVENTFD, ioeventfd.address), 'ioctl KVM_IOEVENTFD');
  }

  /**
   * An NMI for every vCPU, through the local APICs: KVM_NMI belongs to a vCPU, whose ioctls wait while it is in the guest.
   */
  broadcastNmi(): void {
    const msi = new NativeBuffer(MSI.SIZE);
    msi.setU32(MSI.ADDRESS_LO, MSI_ADDRESS_BROADCAST);
    msi.setU32(MSI.DATA, MSI_DATA_NMI);
    check(libc.ioctl(this.fd, KVM_SIGNAL_MSI, msi.address), 'ioctl KVM_SIGNAL_MSI');
  }

  /**
   * Gives the descriptor back; the VM lives on while a vCPU holds it. Taking a VM apart is waiting in the kernel, for tens of
   * milliseconds, which is done on another thread. Rejects with SysError.
   */
  close(): Promise<void> {
    return closeElsewhere(this.fd);
  }

  /** The same, waiting for it. Throws SysError. */
  closeNow(): void {
    close(this.fd);
  }

  private setMemory(map: MemoryMap): void {
    const region = new NativeBuffer(MEMORY_REGION.SIZE);
    map.forEach((chunk, slot) => {
      region.setU32(MEMORY_REGION.SLOT, slot);
      region.setU32(MEMORY_REGION.FLAGS, 0);
      region.setU64(MEMORY_REGION.GUEST_PHYS_ADDR, chunk.guestAddress);
      region.setU64(MEMORY_REGION.MEMORY_SIZE, chunk.size);
      region.setU64(MEMORY_REGION.USERSPACE_ADDR, chunk.hostAddress);
      check(libc.ioctl(this.fd, KVM_SET_USER_MEMORY_REGION, region.address), 'ioctl KVM_SET_USER_MEMORY_REGION');
    });
  }
}
