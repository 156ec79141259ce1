// The virtio console, the watchdog and the panic port in a Linux guest, which is driven over the serial port.

import { expect } from '@jest/globals';
import type { Vm, VmExit } from '../../../../src/vmm/vm.js';
import { COMMAND_LIMIT_MS, type LinuxGuest } from '../../../support/linux-guest.js';

const OUTPUT_BYTES = 2048;

/** Lines go both ways through /dev/hvc0. For a VM with `console` in any mode but `Off`, and a serial port. */
export async function checkConsole(guest: LinuxGuest, vm: Vm): Promise<void> {
  const { console } = vm.consoles;
  if (console === undefined) throw new Error('the VM has no virtio console');
  let text = '';
  let wake: () => void = () => undefined;
  const stop = console.onOutput((bytes) => {
    text += Buffer.from(bytes).toString('latin1');
    wake();
  });
  const heard = async (pattern: RegExp): Promise<void> => {
    const signal = AbortSignal.timeout(COMMAND_LIMIT_MS);
    while (!pattern.test(text)) {
      if (signal.aborted) throw new Error(`no ${String(pattern)} on the virtio console: ${JSON.stringify(text)}`);
      await new Promise<void>((resolve) => {
        wake = resolve;
        signal.onabort = () => resolve();
      });
    }
  };
  try {
    const line = 'x'.repeat(OUTPUT_BYTES);
    await guest.run(`echo ${line} > /dev/hvc0`);
    await heard(new RegExp(`${line}\r\n`));
    await console.write(Buffer.from('to the guest\n'));
    expect(await guest.run('read -r line < /dev/hvc0; echo "read: $line"')).toContain('read: to the guest');
    const { rxBytes, txBytes, guestFaults } = vm.counters()['_console'];
    expect([rxBytes >= 13, txBytes >= OUTPUT_BYTES, guestFaults]).toEqual([true, true, 0]);
  } finally {
    stop();
  }
}

/** The watchdog is found through ACPI, starts when it is opened, and stops again. For a VM with `watchdog`. */
export async function checkWatchdog(guest: LinuxGuest): Promise<void> {
  expect(await guest.run('cat /sys/bus/platform/drivers/wdat_wdt/wdat_wdt/modalias')).toContain('wdat_wdt');
  // CONTROL is at port 0x610; the port is read a byte at a time.
  const running = "dd if=/dev/port bs=1 skip=1552 count=1 2>/dev/null | od -An -tu1 | tr -d ' \\n'";
  expect(await guest.run(running)).toBe('0');
  expect(await guest.run(`exec 3> /dev/watchdog0; ${running}; echo V >&3; exec 3>&-; ${running}`)).toBe('10');
}

/**
 * Makes the kernel panic, which ends the guest; resolves with how the VM ended. For a VM with `pvpanic` and
 * `no_reboot`, as the last check.
 */
export async function checkPanic(vm: Vm): Promise<VmExit> {
  // The shell is process 1.
  await vm.console.write(Buffer.from('exit 3\n'));
  const exit = await vm.exited;
  expect(exit).toEqual({ reason: 'reset', panicked: true });
  return exit;
}
