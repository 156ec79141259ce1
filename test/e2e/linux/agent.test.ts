// The guest agent in a Linux guest, over vsock: it is put into the initramfs by a second archive and started on the console.

import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { randomBytes } from 'node:crypto';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { GUEST_AGENT } from '../../../src/agent/binary.js';
import { buildCpio } from '../../support/cpio.js';
import { describeKvm } from '../../support/kvm.js';
import { BOOT_LIMIT_MS, COMMAND_LIMIT_MS, LINUX_CMDLINE, LinuxGuest, testArtefact } from '../../support/linux-guest.js';

describeKvm('the agent in a Linux guest', () => {
  let directory = '';
  let guest: LinuxGuest;

  beforeAll(async () => {
    directory = mkdtempSync(join(tmpdir(), 'tsvmm-agent-linux-'));
    const initramfs = join(directory, 'initramfs');
    const agent = { mode: 0o100755, content: readFileSync(GUEST_AGENT) };
    writeFileSync(initramfs, Buffer.concat([padded(readFileSync(testArtefact('initramfs'))), buildCpio({ agent })]));
    const payload = { kernel: testArtefact('kernel'), initramfs, cmdline: LINUX_CMDLINE };
    guest = await LinuxGuest.boot({ vsock: { cid: 3 }, payload });
  }, BOOT_LIMIT_MS);
  // `boot` may have failed: there is nothing to stop then, and Jest reports that failure.
  afterAll(async () => {
    await (guest as LinuxGuest | undefined)?.vm.stop();
    rmSync(directory, { recursive: true });
  });

  test(
    'it is missing before it is started, and calls the host when it is',
    async () => {
      await expect(guest.vm.agent.run(['true'])).rejects.toMatchObject({ code: 'AGENT_MISSING' });
      const ready = guest.vm.agent.waitReady({ timeout: COMMAND_LIMIT_MS });
      await guest.run('/agent --daemon');
      await ready;
      expect(await guest.vm.agent.ping()).toBeGreaterThan(0);
    },
    2 * COMMAND_LIMIT_MS,
  );

  test(
    'programs run with their streams, exit codes and signals',
    async () => {
      const { agent } = guest.vm;
      const script = 'cat; echo err >&2; exit 7';
      const stdin = randomBytes(300_000);
      const ended = await agent.run(['/bin/sh', '-c', script], { stdin });
      expect(ended).toMatchObject({ exitCode: 7, signal: null });
      expect(ended.stdout.equals(stdin)).toBe(true);
      expect(ended.stderr.toString()).toBe('err\n');
      await expect(agent.run(['no-such-program'])).rejects.toMatchObject({ code: 'PROGRAM_NOT_FOUND' });
      await expect(agent.run(['/bin/sh', '-c', 'while :; do :; done'], { timeout: 3000 })).rejects.toMatchObject({
        code: 'TIMEOUT',
      });
    },
    2 * COMMAND_LIMIT_MS,
  );

  test(
    'files and folders go in and come out as they were',
    async () => {
      const { agent } = guest.vm;
      const tree = join(directory, 'tree');
      mkdirSync(join(tree, 'folder'), { recursive: true });
      const content = randomBytes(2_000_000);
      writeFileSync(join(tree, 'folder', 'file'), content, { mode: 0o640 });
      symlinkSync('folder/file', join(tree, 'link'));
      await agent.copyIn(tree, '/copied');
      expect(await guest.run('readlink /copied/link; stat -c %a /copied/folder/file')).toBe('folder/file\n640');
      await agent.copyOut('/copied', join(directory, 'back'));
      expect(readFileSync(join(directory, 'back', 'link')).equals(content)).toBe(true);
    },
    2 * COMMAND_LIMIT_MS,
  );

  test(
    'it tells the load',
    async () => {
      const { agent } = guest.vm;
      const metrics = await agent.metrics();
      expect(metrics.cpus).toBe(1);
      expect(metrics.memoryTotal).toBeGreaterThan(32 * 1024 * 1024);
      expect(metrics.processes).toBeGreaterThan(2);
    },
    COMMAND_LIMIT_MS,
  );

  test(
    'a disk of the guest that is full is DISK_FULL, and nothing of the copy stays there',
    async () => {
      const { agent } = guest.vm;
      await guest.run('mkdir /small && mount -t tmpfs -o size=128k none /small');
      const large = join(directory, 'large');
      writeFileSync(large, randomBytes(400_000));
      const copying = agent.copyIn(large, '/small/large');
      await expect(copying).rejects.toMatchObject({ code: 'DISK_FULL', side: 'guest', errno: 28 });
      expect(await guest.run('ls -a /small | grep -v "^[.]*$" | wc -l; umount /small')).toBe('0');
    },
    2 * COMMAND_LIMIT_MS,
  );

  test(
    'a program of the guest that fills the pipe does not keep timeouts from being kept',
    async () => {
      const flood = ['/bin/sh', '-c', 'cat /dev/zero'];
      await expect(guest.vm.agent.run(flood, { timeout: 2000, maxOutput: 2 ** 40 })).rejects.toMatchObject({
        code: 'TIMEOUT',
      });
    },
    COMMAND_LIMIT_MS,
  );

  test(
    'a guest that ends while a program runs and files are copied is GUEST_GONE, and nothing of them is on the host',
    async () => {
      const { agent } = guest.vm;
      const process = await agent.exec(['/bin/sh', '-c', 'read line'], { stdin: 'pipe' });
      const source = join(directory, 'source');
      writeFileSync(source, randomBytes(8_000_000));
      const before = readdirSync(directory);
      const begun: (() => void)[] = [];
      const copies = [
        new Promise<void>((resolve) => begun.push(resolve)),
        new Promise<void>((resolve) => begun.push(resolve)),
      ];
      const [copyIn, copyOut] = [
        agent.copyIn(source, '/in', { onProgress: begun[0] }),
        agent.copyOut('/copied', join(directory, 'out'), { onProgress: begun[1] }),
      ];
      for (const copy of [copyIn, copyOut]) copy.catch(() => undefined);
      await Promise.all(copies);
      await guest.vm.stop();
      for (const request of [process.result, copyIn, copyOut]) {
        await expect(request).rejects.toMatchObject({ code: 'GUEST_GONE' });
      }
      expect(readdirSync(directory)).toEqual(before);
    },
    COMMAND_LIMIT_MS,
  );
});

/** An archive may begin at multiples of four. */
function padded(bytes: Buffer): Buffer {
  return Buffer.concat([bytes, Buffer.alloc(-bytes.length & 3)]);
}
