// A Linux guest that was saved, and whose monitor has ended: brought back twice at the same time.

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { describeKvm } from '../../support/kvm.js';
import { BOOT_LIMIT_MS, COMMAND_LIMIT_MS, type LinuxGuest } from '../../support/linux-guest.js';
import { clockOffset, restoreLinux, savedClockOffset } from '../../support/linux-snapshot.js';
import { connectVsock, readAll } from '../../support/vsock-client.js';

const ECHO_PORT = 4000;
/** What a busy machine may take between the guest's look at its clock and ours. */
const CLOCK_TOLERANCE_S = 3;

describeKvm('a saved Linux guest', () => {
  let directory = '';
  const sockets: string[] = [];
  const guests: LinuxGuest[] = [];

  beforeAll(async () => {
    directory = mkdtempSync(join(tmpdir(), 'tsvmm-linux-snapshot-'));
    sockets.push(join(directory, 'first.vsock'), join(directory, 'second.vsock'));
    for (const socket of sockets) guests.push(await restoreLinux(socket));
  }, BOOT_LIMIT_MS);
  afterAll(async () => {
    for (const { vm } of guests) await vm.stop();
    rmSync(directory, { recursive: true });
  });

  test(
    'is there twice at the same time, and both answer over vsock',
    async () => {
      await Promise.all(
        guests.map(async (guest, index) => {
          const from = guest.console.text.length;
          await guest.startUntil(`vsock-tool listen ${ECHO_PORT} echo`, /vsock-tool: listening/);
          const client = await connectVsock(sockets[index], ECHO_PORT);
          client.end(`to clone ${index}`);
          expect((await readAll(client)).toString()).toBe(`to clone ${index}`);
          await guest.finish(from);
        }),
      );
    },
    2 * COMMAND_LIMIT_MS,
  );

  test(
    'keeps its clock: the time that it was away has passed for it, too',
    async () => {
      const before = await savedClockOffset();
      for (const guest of guests) {
        expect(Math.abs((await clockOffset(guest)) - before)).toBeLessThan(CLOCK_TOLERANCE_S);
      }
    },
    2 * COMMAND_LIMIT_MS,
  );

  test(
    'does not share what it writes with the other one',
    async () => {
      const [first, second] = guests;
      await first.run('echo mine > /written-after-the-restore');
      expect(await first.run('read -r line < /written-after-the-restore; echo $line')).toBe('mine');
      await expect(second.run('read -r line < /written-after-the-restore')).rejects.toThrow('exit status');
    },
    2 * COMMAND_LIMIT_MS,
  );
});
