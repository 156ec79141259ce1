// Persistent memory in a Linux guest: what either side writes, the other sees. For a VM with `pmem` of one file that both
// may write, at least 4 MiB long.

import { closeSync, fsyncSync, openSync, readSync, writeSync } from 'node:fs';
import { expect } from '@jest/globals';
import type { Vm } from '../../../../src/vmm/vm.js';
import type { LinuxGuest } from '../../../support/linux-guest.js';
import { counter } from './counters.js';

const SECTOR = 512;
const FROM_HOST = 'written by the host';
const FROM_GUEST = 'written by the guest';
/** Places of their own, which nothing has read before: the guest keeps what it has read. */
const HOST_SECTOR = 2048;
const GUEST_SECTOR = 4096;

/** `file` is what the VM has as pmem 0, called `id`, of `size` bytes. */
export async function checkPmem(
  guest: LinuxGuest,
  vm: Vm,
  { file, size, id = '_pmem0' }: { readonly file: string; readonly size: number; readonly id?: string },
): Promise<void> {
  expect(await guest.run('cat /sys/block/pmem0/size')).toBe(String(size / SECTOR));
  const fd = openSync(file, 'r+');
  try {
    writeSync(fd, FROM_HOST, HOST_SECTOR * SECTOR);
    expect(
      await guest.run(
        `dd if=/dev/pmem0 bs=${SECTOR} skip=${HOST_SECTOR} count=1 2>/dev/null | head -c ${FROM_HOST.length}`,
      ),
    ).toBe(FROM_HOST);

    const flushes = counter(vm, id, 'flushes');
    await guest.run(
      `printf '${FROM_GUEST}' | dd of=/dev/pmem0 bs=${SECTOR} seek=${GUEST_SECTOR} conv=fsync,notrunc 2>/dev/null`,
    );
    // `fsync` in the guest has become one of this file.
    expect(counter(vm, id, 'flushes')).toBeGreaterThan(flushes);
    expect(counter(vm, id, 'failedFlushes')).toBe(0);
    const bytes = Buffer.alloc(FROM_GUEST.length);
    readSync(fd, bytes, 0, bytes.length, GUEST_SECTOR * SECTOR);
    expect(bytes.toString()).toBe(FROM_GUEST);
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}
