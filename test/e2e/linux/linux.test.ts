// A Linux guest with real AF_VSOCK sockets: one for every test of this file, rebooted by the last.

import { spawn } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Socket } from 'node:net';
import { once } from 'node:events';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { KIB, MIB } from '../../../src/platform/units.js';
import { describeKvm } from '../../support/kvm.js';
import { BOOT_LIMIT_MS, COMMAND_LIMIT_MS, type LinuxGuest } from '../../support/linux-guest.js';
import { restoreLinux } from '../../support/linux-snapshot.js';
import { SeqpacketClient } from '../../support/seqpacket-client.js';
import { connectVsock, readAll } from '../../support/vsock-client.js';

function sha256(data: Uint8Array): string {
  return createHash('sha256').update(data).digest('hex');
}

/** Runs socat on the host to its end, with `input` on its standard input; what it printed. */
async function socat(args: readonly string[], input: string): Promise<string> {
  const child = spawn('socat', args, { stdio: ['pipe', 'pipe', 'inherit'] });
  const pieces: Buffer[] = [];
  child.stdout.on('data', (piece: Buffer) => pieces.push(piece));
  const closed = once(child, 'close');
  child.stdin.end(input);
  await closed;
  return Buffer.concat(pieces).toString();
}

describeKvm('a Linux guest', () => {
  let directory = '';
  let socketPath = '';
  let guest: LinuxGuest;

  beforeAll(async () => {
    directory = mkdtempSync(join(tmpdir(), 'tsvmm-linux-'));
    socketPath = join(directory, 'ch.vsock');
    guest = await restoreLinux(socketPath);
  }, BOOT_LIMIT_MS);
  // That may have failed: there is nothing to stop then, and Jest reports that failure.
  afterAll(async () => {
    await (guest as LinuxGuest | undefined)?.vm.stop();
    rmSync(directory, { recursive: true });
  });

  test(
    'its init obeys commands on the serial line',
    async () => {
      expect(await guest.run('echo $((6 * 7))')).toBe('42');
      await expect(guest.run('false')).rejects.toThrow('exit status 1');
    },
    COMMAND_LIMIT_MS,
  );

  test(
    'it sees its memory, one processor and its context id',
    async () => {
      expect(await guest.run('vsock-tool cid')).toMatch(/\b3\b/);
      const memory = /MemTotal: +(\d+) kB/.exec(await guest.run('while read a; do echo "$a"; done < /proc/meminfo'));
      expect(Number(memory?.[1])).toBeGreaterThan(32 * 1024);
    },
    2 * COMMAND_LIMIT_MS,
  );

  test(
    'socat in the guest answers socat on the host: CONNECT 1234',
    async () => {
      const from = guest.console.text.length;
      // Both ends are socat as a user would run it; what the guest's prints on its standard output is on the console.
      await guest.vm.console.write(Buffer.from('echo from-guest | socat -t5 - VSOCK-LISTEN:1234\n'));
      // It listens some seconds later; until then the guest refuses and socat ends without OK.
      let answer = '';
      for (const limit = performance.now() + COMMAND_LIMIT_MS; performance.now() < limit && answer === '';) {
        answer = await socat(['-t10', '-', `UNIX-CONNECT:${socketPath}`], 'CONNECT 1234\nfrom-host\n');
      }
      expect(answer).toMatch(/^OK \d+\nfrom-guest\n$/);
      expect(await guest.finish(from)).toContain('from-host');
    },
    2 * COMMAND_LIMIT_MS,
  );

  test(
    'socat in the guest reaches socat on the host: VSOCK-CONNECT:2:1234',
    async () => {
      const listener = spawn('socat', ['-t5', '-', `UNIX-LISTEN:${socketPath}_1234`], {
        stdio: ['pipe', 'pipe', 'inherit'],
      });
      const output = readAll(listener.stdout);
      const closed = once(listener, 'close');
      listener.stdin.end('to-guest\n');
      expect(await guest.run('echo to-host | socat -t5 - VSOCK-CONNECT:2:1234')).toContain('to-guest');
      await closed;
      expect((await output).toString()).toBe('to-host\n');
    },
    COMMAND_LIMIT_MS,
  );

  test(
    '1 MiB of random bytes each way arrives with the same SHA-256',
    async () => {
      const data = randomBytes(MIB);
      const from = guest.console.text.length;
      await guest.startUntil('vsock-tool listen 4000 echo', /vsock-tool: listening 4000/);
      const socket = await connectVsock(socketPath, 4000);
      socket.end(data);
      const back = await readAll(socket);
      expect(sha256(back)).toBe(sha256(data));
      const report = await guest.finish(from);
      expect(report).toContain(`rxsha=${sha256(data)}`);
      expect(report).toContain(`txsha=${sha256(data)}`);
      expect(report).toContain('end=eof');
    },
    COMMAND_LIMIT_MS,
  );

  test(
    'what the guest sends to the host arrives whole, over a connection of its own making',
    async () => {
      const server = createServer({ allowHalfOpen: true });
      server.listen(`${socketPath}_4001`);
      await once(server, 'listening');
      try {
        const received = (once(server, 'connection') as Promise<[Socket]>).then(async ([socket]) => {
          const data = await readAll(socket);
          socket.end('thanks');
          return data;
        });
        const report = await guest.run(`vsock-tool connect 2 4001 source ${MIB}`);
        const data = await received;
        expect(data.length).toBe(MIB);
        expect(report).toContain(`txsha=${sha256(data)}`);
        // The guest's half-close left its receiving side open.
        expect(report).toContain(`rx=6 `);
      } finally {
        server.close();
      }
    },
    COMMAND_LIMIT_MS,
  );

  test(
    'a port without a listener is refused, on either side',
    async () => {
      await expect(connectVsock(socketPath, 4444)).rejects.toThrow('closed before OK');
      await expect(guest.run('vsock-tool connect 2 4444 sink')).rejects.toThrow(/exit status/);
    },
    COMMAND_LIMIT_MS,
  );

  test(
    'SEQPACKET: the boundaries of messages are kept both ways',
    async () => {
      const from = guest.console.text.length;
      await guest.startUntil('vsock-tool listen 5000 echo seqpacket b=200000', /vsock-tool: listening 5000/);
      using client = await SeqpacketClient.connect(socketPath, 5000);
      const sent = [1, 100, 4096, 4097, 60_000, 1, 150_000].map((length) => randomBytes(length));
      for (const message of sent) {
        await client.send(message);
        expect((await client.receive())?.equals(message)).toBe(true);
      }
      client.end();
      expect(await client.receive()).toBeUndefined();
      const report = await guest.finish(from);
      expect(report).toContain(`rxmsgs=${sent.length} `);
      expect(report).toContain(`txmsgs=${sent.length} `);
      expect(report).toContain(`rxsha=${sha256(Buffer.concat(sent))}`);
      expect(report).toContain('end=eof');
    },
    COMMAND_LIMIT_MS,
  );

  test(
    'loopback in the guest (CID 1): both ends in the guest, and the host sees nothing of it',
    async () => {
      await guest.run('vsock-tool listen 5001 sink & sleep 2');
      const report = await guest.run(`vsock-tool connect 1 5001 source ${64 * KIB}; wait`);
      const sums = [...report.matchAll(/[rt]xsha=([0-9a-f]{64})/g)].map(([, sum]) => sum);
      expect(sums.length).toBe(2);
      expect(sums[0]).toBe(sums[1]);
    },
    2 * COMMAND_LIMIT_MS,
  );

  test(
    'the driver is unbound and bound again: connections work as before',
    async () => {
      const driver = '/sys/bus/virtio/drivers/vmw_vsock_virtio_transport';
      const device = await guest.run(`cd ${driver}; echo virtio*; cd /`);
      expect(device).toMatch(/^virtio\d+$/);
      await guest.run(`echo ${device} > ${driver}/unbind`);
      // Closed at once, with or without the line having been read.
      await expect(connectVsock(socketPath, 5002)).rejects.toThrow(/closed before OK|ECONNRESET|EPIPE/);
      await guest.run(`echo ${device} > ${driver}/bind`);
      const from = guest.console.text.length;
      await guest.startUntil('vsock-tool listen 5002 echo', /vsock-tool: listening 5002/);
      const socket = await connectVsock(socketPath, 5002);
      socket.end('after the driver came back');
      expect((await readAll(socket)).toString()).toBe('after the driver came back');
      expect(await guest.finish(from)).toContain('end=eof');
    },
    3 * COMMAND_LIMIT_MS,
  );

  test(
    'a reboot by the keyboard controller ends the VM as a reset',
    async () => {
      await guest.vm.console.write(Buffer.from('reboot -f\n'));
      expect(await guest.vm.exited).toEqual({ reason: 'reset' });
    },
    COMMAND_LIMIT_MS,
  );
});
