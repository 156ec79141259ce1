// The Linux guest from a bzImage: its own decompressor runs first, then the same kernel as in the other tests. It finds
// its devices by ACPI, for on this command line there is no room left.

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { COMMAND_LINE_SIZE } from '../../../src/boot/layout.js';
import { buildCpio } from '../../support/cpio.js';
import { describeKvm } from '../../support/kvm.js';
import { ACPI_CMDLINE, BOOT_LIMIT_MS, COMMAND_LIMIT_MS, LinuxGuest, testArtefact } from '../../support/linux-guest.js';
import { checkPanic } from './checks/console.js';

describeKvm('a Linux guest from a bzImage', () => {
  const cmdline = `${ACPI_CMDLINE} noreplace-smp padding.ignored=`.padEnd(COMMAND_LINE_SIZE - 1, 'x');
  let directory = '';
  let guest: LinuxGuest;

  beforeAll(async () => {
    directory = mkdtempSync(join(tmpdir(), 'tsvmm-bzimage-'));
    const initramfs = join(directory, 'initramfs');
    const second = buildCpio({ second: 'plain\n' });
    const third = gzipSync(buildCpio({ third: 'compressed\n' }));
    writeFileSync(initramfs, Buffer.concat([readFileSync(testArtefact('initramfs')), second, third]));
    guest = await LinuxGuest.boot({ payload: { kernel: testArtefact('bzimage'), initramfs, cmdline }, pvpanic: true });
  }, BOOT_LIMIT_MS);
  // `boot` may have failed: there is nothing to stop then, and Jest reports that failure.
  afterAll(async () => {
    await (guest as LinuxGuest | undefined)?.vm.stop();
    rmSync(directory, { recursive: true });
  });

  test(
    'all archives of its initramfs were unpacked, whether compressed or not',
    async () => {
      expect(await guest.run('read a < /second; read b < /third; echo $a $b')).toBe('plain compressed');
    },
    COMMAND_LIMIT_MS,
  );

  test(
    'it has got a command line of as many bytes as Linux keeps',
    async () => {
      expect(await guest.run('read line < /proc/cmdline; echo "${#line}"')).toBe(String(COMMAND_LINE_SIZE - 1));
    },
    COMMAND_LIMIT_MS,
  );

  test('its panic is told, and ends it', () => checkPanic(guest.vm), COMMAND_LIMIT_MS);
});
