// `tsvmm run` with a Linux guest whose initramfs starts the agent; and a TCP port of that guest, through the vsock socket.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { buffer } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import { expect, test } from '@jest/globals';
import { GUEST_AGENT } from '../../../src/agent/binary.js';
import { GuestAgent } from '../../../src/agent/guest-agent.js';
import { buildCpio } from '../../support/cpio.js';
import { describeKvm } from '../../support/kvm.js';
import { BOOT_LIMIT_MS, COMMAND_LIMIT_MS, LINUX_CMDLINE, testArtefact } from '../../support/linux-guest.js';
import { connectVsock } from '../../support/vsock-client.js';

const MAIN = fileURLToPath(new URL('../../../src/cli/main.js', import.meta.url));
/** Comes before the guest's own init, which does not say to the agent what dynamic programs are to leave alone there. */
const TUNABLES = 'GLIBC_TUNABLES=glibc.cpu.hwcaps=-AVX,-AVX2,-AVX512F,-AVX512VL,-AVX512BW';
const START = `#!/bin/sh\nexport ${TUNABLES}\n/agent --daemon\nexec /init\n`;

describeKvm('tsvmm run with a Linux guest', () => {
  test(
    'the program has the streams of the command and gives it its exit code; a port of it is published',
    async () => {
      const directory = mkdtempSync(join(tmpdir(), 'tsvmm-run-'));
      const initramfs = join(directory, 'initramfs');
      const base = readFileSync(testArtefact('initramfs'));
      const added = buildCpio({
        agent: { mode: 0o100755, content: readFileSync(GUEST_AGENT) },
        start: { mode: 0o100755, content: START },
      });
      writeFileSync(initramfs, Buffer.concat([base, Buffer.alloc(-base.length & 3), added]));
      const socket = join(directory, 'ch.vsock');
      const script = 'read line; echo "<$line>"; socat -d -d TCP-LISTEN:80,bind=127.0.0.1 PIPE; exit 7';
      const cmdline = `${LINUX_CMDLINE} rdinit=/start`;
      const vm = ['--kernel', testArtefact('kernel'), '--initramfs', initramfs, '--cmdline', cmdline];
      const options = [...vm, '--memory', 'size=64M', '--vsock', `cid=3,socket=${socket}`];
      const program = ['sh', '-c', script];
      const command = spawn(process.execPath, [MAIN, 'run', ...options, '--', ...program]);
      try {
        const ended = once(command, 'close');
        const output = buffer(command.stdout);
        command.stdin.end('typed\n');
        let errors = '';
        for await (const piece of command.stderr.iterator({ destroyOnReturn: false })) {
          errors += String(piece);
          if (errors.includes('listening on')) break;
        }
        command.stderr.resume();
        expect(errors).toContain('listening on');
        const agent = new GuestAgent({
          connect: (port) => connectVsock(socket, port),
          listen: () => undefined,
          ended: ended.catch(() => undefined),
        });
        const published = await agent.publish({ hostPort: 0, guestPort: 80 });
        const client = connect({ port: published.hostPort, host: '127.0.0.1', allowHalfOpen: true });
        client.end('through the guest');
        expect((await buffer(client)).toString()).toBe('through the guest');
        await published.close();
        expect(await ended).toEqual([7, null]);
        expect((await output).toString()).toBe('<typed>\n');
      } finally {
        command.kill('SIGKILL');
        rmSync(directory, { recursive: true });
      }
    },
    BOOT_LIMIT_MS + COMMAND_LIMIT_MS,
  );
});
