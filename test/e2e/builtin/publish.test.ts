// Ports of the host that lead to vsock ports of the built-in guest: by the command, the API and the library.

import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { Vm } from '../../../src/vmm/vm.js';
import { callApi } from '../../support/api-client.js';
import { Command, endCommands } from '../../support/command.js';
import { describeKvm } from '../../support/kvm.js';
import { openDescriptors } from '../../support/process-state.js';
import { client, collect, exchange, freePort, outcome, sha256, TestServer, testBytes } from '../../support/tcp.js';
import { testConfig, withVm } from '../../support/vms.js';

const MAIN = fileURLToPath(new URL('../../../src/cli/main.js', import.meta.url));
const ECHO = 7;
const DISCARD = 9;
const DAYTIME = 13;
const CHARGEN = 19;
const NOBODY = 4000;

let directory = '';
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'tsvmm-publish-'));
});
afterEach(async () => {
  await endCommands();
  rmSync(directory, { recursive: true });
});

function tsvmm(...args: string[]): Command {
  return new Command(process.execPath, [MAIN, '--serial', 'null', ...args]);
}

/** The port that the kernel chose, as the command says it. */
async function chosenPort(command: Command, where = '127\\.0\\.0\\.1'): Promise<number> {
  const pattern = new RegExp(`--publish: ${where}:([0-9]+) leads to vsock:${ECHO} of the guest`);
  await command.waitFor('stderr', pattern);
  return Number(pattern.exec(command.output.stderr)?.[1]);
}

describeKvm('tsvmm --publish', () => {
  test('works on the first try: a connection from the first moment on is echoed, half-close and all', async () => {
    const vm = tsvmm('--publish', `0:vsock:${ECHO}`);
    const port = await chosenPort(vm);
    const { bytes, sha256: sum } = testBytes(3_000_000);
    expect(sha256(await exchange(port, bytes))).toBe(sum);
    expect((await exchange(port, Buffer.from('again'))).toString()).toBe('again');
    vm.kill('SIGINT');
    expect(await vm.status).toBe(130);
    expect(await outcome(client(port))).toBe('ECONNREFUSED');
    // Neither a hint for a socket that there is not, nor anything that went wrong.
    expect(vm.output.stderr.split('\n').filter((line) => !/--publish: |leave with/.test(line))).toEqual(['']);
  });

  test('is given several times, and for other addresses', async () => {
    const daytime = await freePort();
    const vm = tsvmm('--publish', `${daytime}:vsock:${DAYTIME}`, `[::1]:0:vsock:${ECHO}`);
    const port = await chosenPort(vm, '\\[::1\\]');
    const socket = client(port, '::1');
    socket.end('six');
    expect((await collect(socket)).toString()).toBe('six');
    expect((await collect(client(daytime))).toString()).toMatch(/\d\d:\d\d/);
  });

  test('a port that is taken is said before the guest runs: status 2', async () => {
    await using taken = await TestServer.echo();
    const vm = new Command(process.execPath, [MAIN, '--publish', `${taken.port}:vsock:7`]);
    expect(await vm.status).toBe(2);
    expect(vm.output.stdout).toBe('');
    expect(vm.output.stderr).toContain(`tsvmm: port ${taken.port} of 127.0.0.1 cannot be listened at: `);
    expect(vm.output.stderr).toContain('choose another host port, or 0 for a free one');
  });

  test('nobody listens in the guest: the client is reset, and the log says so', async () => {
    const port = await freePort();
    const vm = tsvmm('--publish', `0:vsock:${ECHO}`, `${port}:vsock:${NOBODY}`);
    // With the guest up, that is an answer.
    await exchange(await chosenPort(vm), Buffer.from('x'));
    expect(await outcome(client(port))).toBe('ECONNRESET');
    await vm.waitFor('stderr', new RegExp(`127\\.0\\.0\\.1:${port} was reset: nobody answers at vsock port ${NOBODY}`));
  });

  test('over the API it is part of the configuration, and vm.info has the port', async () => {
    const socket = join(directory, 'api.sock');
    const command = new Command(process.execPath, [MAIN, '--api-socket', `path=${socket}`, '-v']);
    await command.waitFor('stderr', /serving at/);
    const publish = [{ host_port: 0, vsock_port: ECHO }];
    const body = { serial: { mode: 'Null' }, publish };
    expect((await callApi(socket, 'PUT', 'vm.create', body)).status).toBe(204);
    expect((await callApi(socket, 'PUT', 'vm.boot')).status).toBe(204);
    const info = (await callApi(socket, 'GET', 'vm.info')).body as {
      config: { publish: { host_port: number }[]; vsock: unknown };
    };
    const port = info.config.publish[0]?.host_port ?? 0;
    expect(info.config).toMatchObject({ publish: [{ host_port: port, vsock_port: ECHO }], vsock: { cid: 3 } });
    expect((await exchange(port, Buffer.from('api'))).toString()).toBe('api');
  });
});

describeKvm('vm.publish', () => {
  test('carries what a guest that closes at once has sent, and makes it wait for a slow client', async () => {
    await withVm(testConfig({ vsock: { cid: 3 } }), async (vm) => {
      const daytime = await vm.publish({ hostPort: 0, vsockPort: DAYTIME });
      expect((await collect(client(daytime.hostPort))).toString()).toMatch(/\d\d:\d\d/);
      const chargen = await vm.publish({ hostPort: 0, vsockPort: CHARGEN });
      const endless = client(chargen.hostPort);
      await once(endless, 'data');
      endless.pause();
      // Not for ever: what nobody takes stays in the guest, which goes on for others.
      const echo = await vm.publish({ hostPort: 0, vsockPort: ECHO });
      expect((await exchange(echo.hostPort, Buffer.from('x'))).toString()).toBe('x');
      const before = vm.vsock.counters();
      expect((await exchange(echo.hostPort, Buffer.from('y'))).toString()).toBe('y');
      expect(vm.vsock.counters().txBytes - before.txBytes).toBeLessThan(16 * 1024 * 1024);
      endless.resetAndDestroy();
      const discard = await vm.publish({ hostPort: 0, vsockPort: DISCARD });
      expect(await exchange(discard.hostPort, testBytes(2_000_000).bytes)).toHaveLength(0);
    });
  });

  test('is listened at before the VM starts, and gone when it ends; nothing is left open', async () => {
    const vm = await Vm.create(testConfig({ vsock: { cid: 3 } }));
    const { hostPort } = await vm.publish({ hostPort: 0, vsockPort: ECHO });
    const early = exchange(hostPort, Buffer.from('early'));
    await vm.start();
    expect((await early).toString()).toBe('early');
    await vm.stop();
    expect(await outcome(client(hostPort))).toBe('ECONNREFUSED');
    await expect(vm.publish({ hostPort: 0, vsockPort: ECHO })).rejects.toMatchObject({ code: 'GUEST_GONE' });
    const none = await Vm.create(testConfig());
    await expect(none.publish({ hostPort: 0, vsockPort: 7 })).rejects.toMatchObject({ code: 'NO_DEVICE' });
    await expect(none.expose({ name: 'a', to: '/a' })).rejects.toMatchObject({ code: 'NO_DEVICE' });
    await none.stop();
  });

  test('a VM whose second port is taken is not made, and the first is free again', async () => {
    await using taken = await TestServer.echo();
    const free = await freePort();
    const publish = [free, taken.port].map((host_port) => ({ host_port, vsock_port: ECHO }));
    // Threads that wait for the next VM have descriptors of their own.
    await Vm.cooldown();
    const before = openDescriptors();
    await expect(Vm.create({ ...testConfig(), publish })).rejects.toMatchObject({ code: 'HOST_PORT' });
    await Vm.cooldown();
    expect(openDescriptors()).toEqual(before);
    await using again = await TestServer.echo({ port: free });
    expect(again.port).toBe(free);
  });

  test('a snapshot has its ports with it; a clone has others, or none', async () => {
    const folder = join(directory, 'saved');
    const hostPort = await freePort();
    const config = { ...testConfig(), publish: [{ host_port: hostPort, vsock_port: ECHO }] };
    await withVm(config, async (vm) => {
      expect((await exchange(hostPort, Buffer.from('original'))).toString()).toBe('original');
      await vm.snapshot(folder);
      await expect(Vm.restore(folder)).rejects.toMatchObject({ code: 'HOST_PORT' });
      const publish = [{ host_port: 0, vsock_port: ECHO }];
      await using clone = await Vm.restore(folder, { overrides: { publish } });
      const [port] = clone.publishedPorts;
      // A connection waits for the guest to go on, and for its driver to have heard of the restore.
      const waiting = exchange(port.hostPort, Buffer.from('clone'));
      await clone.resume();
      expect((await waiting).toString()).toBe('clone');
      await using none = await Vm.restore(folder, { overrides: { publish: [] } });
      expect(none.publishedPorts).toEqual([]);
    });
    await using restored = await Vm.restore(folder);
    await restored.resume();
    expect((await exchange(hostPort, Buffer.from('again'))).toString()).toBe('again');
  });

  test('a guest that reboots is waited for', async () => {
    await withVm(testConfig({ vsock: { cid: 3 }, no_reboot: false }), async (vm, console) => {
      const { hostPort } = await vm.publish({ hostPort: 0, vsockPort: ECHO });
      expect((await exchange(hostPort, Buffer.from('one'))).toString()).toBe('one');
      const held = client(hostPort);
      held.write('held');
      await once(held, 'data');
      const ended = outcome(held);
      await vm.reboot();
      expect(await ended).toBe('ECONNRESET');
      expect((await exchange(hostPort, Buffer.from('two'))).toString()).toBe('two');
      expect(console.text).toContain('tsvmm guest');
    });
  });
});
