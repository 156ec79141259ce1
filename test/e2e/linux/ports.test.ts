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

/** The port of the guest's echo server, and one where nobody listens. */
const ECHO = 8000;
const NOBODY = 8001;
/** Where the guest fetches its agent. */
const AGENT_SOURCE = 5000;
const BYTES = 10_000_000;
/** What such a guest takes to carry them, on a host that is busy with other things. */
const CARRY_LIMIT_MS = 300_000;

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

  /** Echoes to one connection in the guest, and says what it was. */
  async function echoServer(): Promise<() => Promise<string>> {
    const from = guest.console.text.length;
    await guest.startUntil(`vsock-tool listen ${ECHO} echo tcp`, /vsock-tool: listening/);
    return () => guest.finish(from);
  }

  /** Tells the SHA-256 of what it was sent, when that has ended. */
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
      await guest.run(`vsock-tool connect 2 ${AGENT_SOURCE} stdio > /agent < /dev/null`);
      source.close();
      await guest.run('chmod 755 /agent && /agent --daemon');
      await vm.agent.waitReady({ timeout: COMMAND_LIMIT_MS });
      const served = await echoServer();
      expect(sha256(await early)).toBe(sum);
      expect(await served()).toMatch(new RegExp(`tx=${BYTES} .*txsha=${sum} rx=${BYTES} .*rxsha=${sum} .*end=eof`));
    },
    4 * COMMAND_LIMIT_MS + CARRY_LIMIT_MS,
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
    'a program in the guest reaches a service of the host by its name: 10 MB each way, half-closed',
    async () => {
      const { vm } = guest;
      const received = createHash('sha256');
      await using database = await TestServer.start((socket) => {
        socket.on('data', (piece: Buffer) => received.update(piece));
        // It answers only when it has all of the question.
        socket.on('end', () => socket.end(bytes));
      });
      const db = await vm.expose({ name: 'db', guestPort: 5432, to: `127.0.0.1:${database.port}` });
      await db.waitListening({ timeout: COMMAND_LIMIT_MS });
      const from = guest.console.text.length;
      await guest.startUntil(
        `vsock-tool connect 127.0.0.1 5432 source ${BYTES} tcp`,
        /vsock-tool: peer=/,
        CARRY_LIMIT_MS,
      );
      const report = await guest.finish(from);
      expect(report).toMatch(new RegExp(`tx=${BYTES} .*rx=${BYTES} .*rxsha=${sum} .*end=eof`));
      expect(/txsha=([0-9a-f]{64})/.exec(report)?.[1]).toBe(received.digest('hex'));
      // Nothing else of the host is there.
      await expect(guest.run(`vsock-tool connect 127.0.0.1 ${database.port} sink tcp`)).rejects.toThrow(/exit status/);
      db.close();
    },
    2 * COMMAND_LIMIT_MS + CARRY_LIMIT_MS,
  );

  test(
    'a service at a Unix socket is offered again in a guest that was restored',
    async () => {
      const { vm } = guest;
      const folder = join(directory, 'saved');
      const path = join(directory, 'sum.sock');
      await using server = await TestServer.start(summing, { path });
      const service = await vm.expose({ name: 'sum', to: path });
      await service.waitListening({ timeout: COMMAND_LIMIT_MS });
      await vm.snapshot(folder);
      await using clone = await Vm.restore(folder, { overrides: { vsock: { socket: join(directory, 'clone') } } });
      const again = await clone.expose({ name: 'sum', handler: summing });
      await clone.resume();
      await again.waitListening({ timeout: 2 * COMMAND_LIMIT_MS });
      const expected = sha256(Buffer.from('text\n'));
      const command = `echo text | socat -t 100 - UNIX-CONNECT:${again.socketPath}`;
      const { stdout } = await clone.agent.run(['/bin/sh', '-c', command]);
      expect(stdout.toString()).toBe(expected);
      // The guest that was saved has kept its own.
      expect(await guest.run(command)).toBe(expected);
      expect(server.server.listening).toBe(true);
      service.close();
    },
    6 * COMMAND_LIMIT_MS,
  );

  test(
    'the end of the VM is the end of its ports',
    async () => {
      const { vm } = guest;
      const { hostPort } = await vm.publish({ hostPort: 0, guestPort: ECHO });
      await echoServer();
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
