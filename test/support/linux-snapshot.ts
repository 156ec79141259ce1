// A Linux guest that starts in less than a second: booted once for the whole run of the tests, saved, and restored for
// each file that wants one.

import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Vm } from '../../src/vmm/vm.js';
import { LinuxGuest } from './linux-guest.js';
import { ConsoleRecorder } from './vms.js';

/** The guest's context id. */
const CID = 3;
const CLOCK_FILE = 'clock.json';

/** The folder of the snapshot; the guest is booted when nobody has done so before. */
async function savedLinux(): Promise<string> {
  const scratch = process.env['TSVMM_TEST_SCRATCH'];
  if (scratch === undefined)
    throw new Error('TSVMM_TEST_SCRATCH is not set: run the Linux tests with `npm test -- linux`');
  const folder = join(scratch, 'linux');
  if (existsSync(join(folder, CLOCK_FILE))) return folder;
  const guest = await LinuxGuest.boot({ vsock: { cid: CID, socket: join(scratch, 'linux.vsock') } });
  try {
    const offset = await clockOffset(guest);
    await guest.vm.snapshot(folder);
    writeFileSync(join(folder, CLOCK_FILE), JSON.stringify(offset));
    return folder;
  } finally {
    await guest.vm.stop();
  }
}

/**
 * A guest of the run's snapshot at its prompt, with its vsock socket at `socket`. Takes as long as a boot the first time.
 * The caller stops its `vm`.
 */
export async function restoreLinux(socket: string): Promise<LinuxGuest> {
  const vm = await Vm.restore(await savedLinux(), { overrides: { vsock: { socket } } });
  const guest = new LinuxGuest(vm, new ConsoleRecorder(vm));
  await vm.resume();
  return guest;
}

/** Seconds from the guest's clock to the host's. The guest's shell reads it without starting a program. */
export async function clockOffset(guest: LinuxGuest): Promise<number> {
  const uptime = Number(await guest.run('read -r up rest < /proc/uptime; echo $up'));
  return Date.now() / 1000 - uptime;
}

/** The same when the snapshot was taken. */
export async function savedClockOffset(): Promise<number> {
  return JSON.parse(readFileSync(join(await savedLinux(), CLOCK_FILE), 'utf8')) as number;
}
