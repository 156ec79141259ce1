// Rules that look at the machine as a whole: names and paths that two devices would share, and how many devices fit.

import { showValue } from '../config-error.js';
import type { VmConfig } from '../vm-config.js';
import { isDirectory, placeOf } from './files.js';
import type { Complain } from './rule.js';

/**
 * Each virtio device has an interrupt line of its own: pins 5 to 23 of the IOAPIC, but for 9, which is the power
 * button's.
 */
export const MAX_VIRTIO_DEVICES = 18;

/** The devices of which there is one go by their kind, in the same logs and counters. */
const KINDS: readonly string[] = ['_vsock', '_rng', '_balloon', '_console'];

export function checkIds({ disks = [], net = [], pmem = [] }: VmConfig, complain: Complain): void {
  const devices = [
    ...disks.map(({ id }, index) => ({ id, index, section: 'disks', automatic: `_disk${index}` })),
    ...net.map(({ id }, index) => ({ id, index, section: 'net', automatic: `_net${index}` })),
    ...pmem.map(({ id }, index) => ({ id, index, section: 'pmem', automatic: `_pmem${index}` })),
  ];
  const seen = new Set(KINDS.concat(devices.filter(({ id }) => id === undefined).map(({ automatic }) => automatic)));
  for (const { id, index, section } of devices) {
    if (id === undefined) continue;
    const field = `${section}[${index}].id`;
    checkId(complain, field, id);
    if (seen.has(id)) {
      const problem = `two devices are called ${showValue(id)}`;
      complain(field, id, { code: 'DUPLICATE', problem, mend: 'Give each its own name, or none.' });
    }
    seen.add(id);
  }
}

/** Longer names are cut in the guest's and the host's tools. */
const MAX_ID_BYTES = 64;

function checkId(complain: Complain, field: string, id: string): void {
  if (id === '') {
    complain(field, id, { code: 'MISSING_VALUE', problem: 'the name is empty', mend: 'Name it, or leave id out.' });
  }
  if (Buffer.byteLength(id) > MAX_ID_BYTES) {
    const problem = `the name has more than ${MAX_ID_BYTES} bytes`;
    complain(field, id, { code: 'TOO_LONG', problem, mend: 'Use a shorter one.' });
  }
  if (!/^[A-Za-z0-9_.-]+$/.test(id)) {
    complain(field, id, {
      code: 'WRONG_TYPE',
      problem: `${showValue(id)} has other characters than letters, digits, dashes, dots and underscores`,
      mend: 'Use only those.',
    });
  }
}

/** What is written must not be used twice. */
export function checkPaths(config: VmConfig, complain: Complain): void {
  const users = pathsOf(config);
  users.forEach((user, index) => {
    const other = users.slice(0, index).find(({ place, writes }) => place === user.place && (writes || user.writes));
    if (other === undefined) return;
    complain(user.field, user.path, {
      code: 'DUPLICATE',
      problem: `${showValue(user.path)} is ${other.called} already, and ${writers(other, user)} it`,
      mend: 'Name another path for one of the two.',
    });
  });
}

function writers(first: PathUser, second: PathUser): string {
  if (first.writes && second.writes) return 'both write to';
  return `${first.writes ? 'that' : 'this'} use writes to`;
}

interface PathUser {
  readonly field: string;
  readonly path: string;
  /** The file itself, whatever it is called. */
  readonly place: string;
  readonly writes: boolean;
  /** For the message about the second use. */
  readonly called: string;
}

function pathsOf({ payload, disks = [], pmem = [], serial, console, debug_console, vsock }: VmConfig): PathUser[] {
  const users: PathUser[] = [];
  const add = (field: string, path: string | undefined, writes: boolean, called: string): void => {
    const place = path === undefined ? undefined : placeOf(path);
    if (path !== undefined && place !== undefined) users.push({ field, path, place, writes, called });
  };
  add('payload.kernel', payload.kernel, false, 'the kernel');
  add('payload.initramfs', payload.initramfs, false, 'the initramfs');
  disks.forEach(({ path, readonly }, index) => {
    add(`disks[${index}].path`, path, readonly !== true, 'a disk');
  });
  pmem.forEach(({ file, discard_writes }, index) => {
    // A directory may be named any number of times: each device has a temporary file in it.
    if (!isDirectory(file)) add(`pmem[${index}].file`, file, discard_writes !== true, 'persistent memory');
  });
  add('serial.file', serial.file, true, "the serial port's");
  add('serial.socket', serial.socket, true, "the serial port's");
  add('console.file', console.file, true, "the console's");
  add('console.socket', console.socket, true, "the console's");
  add('debug_console.file', debug_console?.file, true, "the debug console's");
  add('vsock.socket', vsock?.socket, true, "vsock's");
  return users;
}

export function checkDeviceCount(config: VmConfig, complain: Complain): void {
  const { disks = [], net = [], pmem = [] } = config;
  const kinds: (readonly [count: number, called: string, field: string])[] = [
    [disks.length, 'disks', 'disks'],
    [net.length, 'network cards', 'net'],
    [pmem.length, 'persistent memories', 'pmem'],
    [countOf(config.vsock !== undefined), 'vsock', 'vsock'],
    [countOf(config.console.mode !== 'Off'), 'console', 'console'],
    [countOf(config.rng !== undefined || config.payload.kernel !== undefined), 'rng', 'rng'],
    [countOf(config.balloon !== undefined), 'balloon', 'balloon'],
  ];
  const total = kinds.reduce((sum, [count]) => sum + count, 0);
  if (total <= MAX_VIRTIO_DEVICES) return;
  // The kind of which there are most is the one to have fewer of.
  const [, , field] = kinds.reduce((most, kind) => (kind[0] > most[0] ? kind : most));
  const list = kinds.filter(([count]) => count > 0).map(([count, called]) => `${count} ${called}`);
  complain(field, total, {
    code: 'OUT_OF_RANGE',
    problem: `there are ${total} virtio devices (${list.join(', ')}) for ${MAX_VIRTIO_DEVICES} interrupt lines`,
    mend: `Have at most ${MAX_VIRTIO_DEVICES} devices in all.`,
  });
}

function countOf(there: boolean): number {
  return there ? 1 : 0;
}
