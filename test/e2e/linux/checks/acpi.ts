// What a Linux guest finds through ACPI alone: virtio devices, the panic port, serial port and events, its processors; and
// the power button.

import { expect } from '@jest/globals';
import type { Vm } from '../../../../src/vmm/vm.js';
import { COMMAND_LIMIT_MS, type LinuxGuest } from '../../../support/linux-guest.js';

/** For a VM with a serial port, `pvpanic`, and so many devices and vCPUs. */
export async function checkAcpi(guest: LinuxGuest, devices: number, cpus: number): Promise<void> {
  expect(await guest.run('cat /proc/cmdline')).not.toMatch(/virtio_mmio|acpi=off/);
  const found = await guest.run('ls /sys/bus/platform/drivers/virtio-mmio /sys/bus/platform/drivers/pvpanic-mmio');
  expect(found.match(/LNRO0005:/g)).toHaveLength(devices);
  expect(found).toContain('QEMU0001:00');
  expect((await guest.run('ls /sys/bus/acpi/devices')).match(/ACPI0007:/g)).toHaveLength(cpus);
  expect(await guest.run("dmesg | grep -E 'PWRB|supports S0'")).toMatch(/supports S0 S5[^]*Power Button \[PWRB\]/);
  const interrupts = await guest.run('cat /proc/interrupts');
  expect(interrupts).toMatch(/ 9-edge +ACPI:Ged$/m);
  expect(interrupts).toMatch(/ 4-edge +ttyS0$/m);
}

/** The guest's input layer hears that the power button is pressed. Nothing in the guest shuts down at it. */
export async function checkPowerButton(guest: LinuxGuest, vm: Vm): Promise<void> {
  // An event of 24 bytes: 16 of time, EV_KEY (1), KEY_POWER (116), 1 for down.
  const from = guest.console.text.length;
  await guest.run('exec 4< /dev/input/event0; hexdump -C -n 24 <&4 & echo');
  vm.powerButton();
  await guest.console.waitFor(/01 00 74 00 01 00 00 00/, COMMAND_LIMIT_MS, from);
  await guest.run('wait; exec 4<&-');
}
