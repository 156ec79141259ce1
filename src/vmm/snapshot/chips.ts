// The VM-wide devices inside KVM: interrupt controllers, timer, clock. Main thread, while no vCPU runs.

import { check, libc } from '../../platform/libc.js';
import { NativeBuffer } from '../../platform/native-buffer.js';
import type { Fd } from '../../platform/units.js';
import {
  CLOCK,
  IRQCHIP,
  IRQCHIP_IDS,
  KVM_GET_CLOCK,
  KVM_GET_IRQCHIP,
  KVM_GET_PIT2,
  KVM_SET_CLOCK,
  KVM_SET_IRQCHIP,
  KVM_SET_PIT2,
  PIT_STATE2_SIZE,
} from '../kvm/abi.js';

/** KVM's structures as they are. */
export interface ChipsSnapshot {
  /** struct kvm_irqchip of the two PICs and the IOAPIC. */
  readonly irqchips: readonly Uint8Array[];
  /** struct kvm_pit_state2. */
  readonly pit: Uint8Array;
  /** kvmclock in nanoseconds. */
  readonly clock: bigint;
}

/** Throws SysError. */
export function saveChips(vmFd: Fd): ChipsSnapshot {
  const irqchips = IRQCHIP_IDS.map((id) => {
    const chip = new NativeBuffer(IRQCHIP.SIZE);
    chip.setU32(IRQCHIP.CHIP_ID, id);
    check(libc.ioctl(vmFd, KVM_GET_IRQCHIP, chip.address), 'ioctl KVM_GET_IRQCHIP');
    return chip.bytes;
  });
  const pit = new NativeBuffer(PIT_STATE2_SIZE);
  check(libc.ioctl(vmFd, KVM_GET_PIT2, pit.address), 'ioctl KVM_GET_PIT2');
  const clock = new NativeBuffer(CLOCK.SIZE);
  check(libc.ioctl(vmFd, KVM_GET_CLOCK, clock.address), 'ioctl KVM_GET_CLOCK');
  return { irqchips, pit: pit.bytes, clock: clock.u64(CLOCK.CLOCK) };
}

/** Puts `snapshot` into a new VM; its clock goes on as if `elapsedNs` had passed. Throws SysError. */
export function restoreChips(vmFd: Fd, snapshot: ChipsSnapshot, elapsedNs: bigint): void {
  for (const bytes of snapshot.irqchips) {
    const chip = new NativeBuffer(IRQCHIP.SIZE);
    chip.bytes.set(bytes);
    check(libc.ioctl(vmFd, KVM_SET_IRQCHIP, chip.address), 'ioctl KVM_SET_IRQCHIP');
  }
  const pit = new NativeBuffer(PIT_STATE2_SIZE);
  pit.bytes.set(snapshot.pit);
  check(libc.ioctl(vmFd, KVM_SET_PIT2, pit.address), 'ioctl KVM_SET_PIT2');
  const clock = new NativeBuffer(CLOCK.SIZE);
  clock.setU64(CLOCK.CLOCK, snapshot.clock + elapsedNs);
  check(libc.ioctl(vmFd, KVM_SET_CLOCK, clock.address), 'ioctl KVM_SET_CLOCK');
}
