// Published ports and host services with a Linux guest: servers and clients in the guest are ordinary programs, TCP is its
// kernel's, and the agent is put into it while connections wait for it already.

import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createHash } from 'node:crypto';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Duplex } from 'node:stream';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { GUEST_AGENT } from '../../../src/agent/binary.js';
import { Vm } from '../../../src/vmm/vm.js';
import { describeKvm } from '../../support/kvm.js';
import { BOOT_LIMIT_MS, COMMAND_LIMIT_MS, type LinuxGuest } from '../../support/linux-guest.js';
import { restoreLinux } from '../../support/linux-snapshot.js';
import { client, exchange, outcome, sha256, TestServer, testBytes } from '../../support/tcp.js';

/** The port of the guest's echo server. */
const ECHO = 8000;
const NOBODY = 8001;
/** Where the guest fetches its agent. */
const AGENT_SOURCE = 5000;
const BYTES = 10_000_000;
/** Half-closed connections wait for the other end, and the guest is slow. */
const SOCAT = 'socat -t 600';

describeKvm('ports of a Linux guest', () => {
  const { bytes, sha256: sum } = testBytes(BYTES);
  let directory = '';
  let guest: LinuxGuest;

  beforeAll(async () => {
    directory = mkdtempSync(join(tmpdir(), 'tsvmm-ports-'));
    guest = await restoreLinux(join(directory, 'vsock'));
  }, BOOT_LIMIT_MS);
  afterAll(async () => {
    await (guest as LinuxGuest | undefined)?.vm.stop();
    rmSync(directory, { recursive: true });
  });

  async function shell(vm: Vm, script: string): Promise<string> {
    const { stdout, stderr, exitCode } = await vm.agent.run(['/bin/sh', '-c', script]);
    expect([stderr.toString(), exitCode]).toEqual(['', 0]);
    return stdout.toString();
  }

  /** Tells the sum of what it was sent, when that has ended. */
  const summing = (stream: Duplex): void => {
    const hash = createHash('sha256');
    stream.on('data', (piece: Buffer) => hash.update(piece));
    stream.on('end', () => stream.end(hash.digest('hex')));
  };

  test(
    'a connection that comes before agent and server waits for both; 10 MB go each way',
    async () => {
      const { vm } = guest;
      const { hostPort } = await vm.publish({ hostPort: 0, guestPort: ECHO, readyTimeout: 4 * COMMAND_LIMIT_MS });
      const early = exchange(hostPort, bytes);
      const source = vm.vsock.listen(AGENT_SOURCE, (stream) => stream.resume().end(readFileSync(GUEST_AGENT)));
      await guest.run(`socat -u VSOCK-CONNECT:2:${AGENT_SOURCE} CREATE:/agent && chmod 755 /agent && /agent --daemon`);
      source.close();
      await vm.agent.waitReady({ timeout: COMMAND_LIMIT_MS });
      await shell(vm, `${SOCAT} TCP-LISTEN:${ECHO},bind=127.0.0.1,fork PIPE > /dev/null 2>&1 &`);
      expect(sha256(await early)).toBe(sum);
    },
    6 * COMMAND_LIMIT_MS,
  );

  test(
    'where nobody listens the client is reset',
    async () => {
      const errors: unknown[] = [];
      const onError = (error: unknown): void => {
        errors.push(error);
      };
      const { hostPort } = await guest.vm.publish({ hostPort: 0, guestPort: NOBODY, onError });
      expect(await outcome(client(hostPort))).toBe('ECONNRESET');
      expect(errors).toMatchObject([{ code: 'REFUSED', side: 'guest', errno: 111 }]);
    },
    COMMAND_LIMIT_MS,
  );

  test(
    'programs in the guest reach services of the host by their names: 10 MB each way, to TCP and to a Unix socket',
    async () => {
      const { vm } = guest;
      await using database = await TestServer.start(summing);
      const path = join(directory, 'files.sock');
      await using files = await TestServer.start((socket) => socket.resume().end(bytes), { path });
      const db = await vm.expose({ name: 'db', guestPort: 5432, to: `127.0.0.1:${database.port}` });
      const store = await vm.expose({ name: 'store', to: path });
      await Promise.all([db, store].map((service) => service.waitListening({ timeout: COMMAND_LIMIT_MS })));
      expect(files.server.listening).toBe(true);
      const received = await shell(
        vm,
        `${SOCAT} -u UNIX-CONNECT:${store.socketPath} CREATE:/received && sha256sum < /received`,
      );
      expect(received.slice(0, 64)).toBe(sum);
      expect(await shell(vm, `${SOCAT} - TCP:127.0.0.1:5432 < /received`)).toBe(sum);
      // Nothing else of the host is there.
      await expect(shell(vm, `socat -u TCP:127.0.0.1:${database.port} -`)).rejects.toThrow();
      db.close();
      store.close();
    },
    6 * COMMAND_LIMIT_MS,
  );

  test(
    'a service is offered again in a guest that was restored',
    async () => {
      const { vm } = guest;
      const folder = join(directory, 'saved');
      const service = await vm.expose({ name: 'sum', handler: summing });
      await service.waitListening({ timeout: COMMAND_LIMIT_MS });
      await vm.snapshot(folder);
      const overrides = { vsock: { socket: join(directory, 'clone') } };
      await using clone = await Vm.restore(folder, { overrides });
      const again = await clone.expose({ name: 'sum', handler: summing });
      const published = await clone.publish({ hostPort: 0, guestPort: ECHO, readyTimeout: 2 * COMMAND_LIMIT_MS });
      const early = exchange(published.hostPort, Buffer.from('to the clone'));
      await clone.resume();
      await again.waitListening({ timeout: 2 * COMMAND_LIMIT_MS });
      expect((await early).toString()).toBe('to the clone');
      const script = `echo text | ${SOCAT} - UNIX-CONNECT:${again.socketPath}`;
      const expected = sha256(Buffer.from('text\n'));
      expect(await shell(clone, script)).toBe(expected);
      // The guest that was saved has kept its own.
      expect(await shell(vm, script)).toBe(expected);
    },
    6 * COMMAND_LIMIT_MS,
  );

  test(
    'the end of the VM is the end of its ports',
    async () => {
      const { vm } = guest;
      const { hostPort } = await vm.publish({ hostPort: 0, guestPort: ECHO });
      const held = client(hostPort);
      held.write('x');
      held.on('error', () => undefined);
      expect(await new Promise((resolve) => held.once('data', resolve))).toEqual(Buffer.from('x'));
      const ended = outcome(held);
      await vm.stop();
      expect(await ended).toBe('ECONNRESET');
      expect(await outcome(client(hostPort))).toBe('ECONNREFUSED');
    },
    COMMAND_LIMIT_MS,
  );
});
