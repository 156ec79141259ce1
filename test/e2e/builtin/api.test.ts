// `tsvmm --api-socket` and `tsvmm ctl` as processes of their own, with real VMs. What the API answers is checked against
// docs/openapi.yaml.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { ENDPOINTS } from '../../../src/api/endpoints.js';
import { HostSocket } from '../../../src/vmm/host-socket.js';
import { callApi, openApi } from '../../support/api-client.js';
import { Command, endCommands } from '../../support/command.js';
import { describeKvm } from '../../support/kvm.js';
import { eventually } from '../../support/process-state.js';

const MAIN = fileURLToPath(new URL('../../../src/cli/main.js', import.meta.url));
const REMOTE = fileURLToPath(new URL('../../../src/cli/remote.js', import.meta.url));
const DRIVER = fileURLToPath(new URL('../../../../test/e2e/builtin/drive-api.sh', import.meta.url));

let directory = '';
let socket = '';

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'tsvmm-api-'));
  socket = join(directory, 'api.sock');
});
afterEach(async () => {
  await endCommands();
  rmSync(directory, { recursive: true });
});

/** A monitor whose socket is there. */
async function monitor(...args: string[]): Promise<Command> {
  const command = new Command(process.execPath, [MAIN, '--api-socket', `path=${socket}`, '-v', ...args]);
  await command.waitFor('stderr', /serving at/);
  return command;
}

function ctl(...args: string[]): Command {
  return new Command(process.execPath, [MAIN, 'ctl', '--api-socket', socket, ...args]);
}

/** Runs to its end with what is typed; its status and output. */
async function done(command: Command, typed = ''): Promise<{ status: unknown; stdout: string; stderr: string }> {
  command.type(typed);
  command.endInput();
  const status = await command.status;
  return { status, ...command.output };
}

describeKvm('the API', () => {
  test('the whole of it by curl: every answer is as the document says', async () => {
    const vmm = await monitor();
    const script = new Command(DRIVER, [socket, directory]);
    const { status, stdout, stderr } = await done(script);
    expect([stderr, status]).toEqual(['', 0]);
    const answers = stdout.trimEnd().split('\n');
    for (const line of answers) {
      const [method = '', name = '', code = '', type = '', text = ''] = line.split('\t');
      const contentType = type === '' ? undefined : type;
      openApi.check({ method, path: `/api/v1/${name}`, status: Number(code), contentType, text });
    }
    const called = new Set(answers.map((line) => line.split('\t').slice(0, 2).join(' ')));
    expect(ENDPOINTS.filter(({ method, name }) => !called.has(`${method} ${name}`))).toEqual([]);
    expect(await vmm.status).toBe(0);
    expect(readdirSync(directory).sort()).toEqual(['answer', 'core', 'diff', 'snapshot']);
  }, 60_000);

  test('a VM of the command line is booted, and its end is the end of the process', async () => {
    const vmm = await monitor('--memory', 'size=64M');
    expect(statSync(socket).mode & 0o777).toBe(0o600);
    await vmm.waitFor('stdout', /> $/);
    expect((await callApi(socket, 'GET', 'vm.info')).body).toMatchObject({ state: 'Running' });
    vmm.type('poweroff\n');
    expect(await vmm.status).toBe(0);
    expect(readdirSync(directory)).toEqual([]);
  });

  test('without one the process outlives its VMs', async () => {
    const vmm = await monitor();
    await callApi(socket, 'PUT', 'vm.create', { memory: { size: 64 << 20 } });
    await callApi(socket, 'PUT', 'vm.boot');
    await vmm.waitFor('stdout', /> $/);
    vmm.type('fault\n');
    await vmm.waitFor('stderr', /the guest crashed/);
    await eventually('the VM is shut down', async () => {
      const { body } = await callApi(socket, 'GET', 'vm.info');
      return (body as { state: string }).state === 'Shutdown';
    });
    await callApi(socket, 'PUT', 'vm.boot');
    await callApi(socket, 'PUT', 'vmm.shutdown');
    expect(await vmm.status).toBe(0);
  });

  test.each([
    ['SIGTERM', 143],
    ['SIGINT', 130],
  ] as const)('%s ends it, VM, half-open clients and all', async (signal, status) => {
    const vmm = await monitor('--memory', 'size=64M');
    await vmm.waitFor('stdout', /> $/);
    const client = connect(socket).on('error', () => undefined);
    await once(client, 'connect');
    client.write('PUT /api/v1/vm.pause HTTP/1.1\r\n');
    await callApi(socket, 'GET', 'vmm.ping');
    vmm.kill(signal);
    expect(await vmm.status).toBe(status);
    expect(readdirSync(directory)).toEqual([]);
    client.destroy();
  });

  test('a live socket is refused, a stale one replaced', async () => {
    const first = await monitor();
    const second = new Command(process.execPath, [MAIN, '--api-socket', socket]);
    expect(await second.status).toBe(2);
    expect(second.output.stderr).toContain(`--api-socket: a running process listens at ${socket}`);
    first.kill('SIGKILL');
    await first.status;
    await monitor();
    expect((await callApi(socket, 'GET', 'vmm.ping')).status).toBe(200);
  });

  test('a socket that is handed over is served, and left alone at the end', async () => {
    const listener = new HostSocket('--api-socket', socket);
    const args = [MAIN, '--api-socket', 'fd=3', '-v'];
    const child = spawn(process.execPath, args, { stdio: ['ignore', 'ignore', 'ignore', listener.fd] });
    const ended = once(child, 'close');
    expect((await callApi(socket, 'GET', 'vmm.ping')).body).toMatchObject({ pid: child.pid });
    await callApi(socket, 'PUT', 'vmm.shutdown');
    expect(await ended).toEqual([0, null]);
    expect(readdirSync(directory)).toEqual(['api.sock']);
    listener.close();
  });

  test.each([
    ['fd=0', /--api-socket fd: descriptor 0 is no socket/],
    ['fd=77', /--api-socket fd: descriptor 77 is no socket/],
    ['fd=x', /"x" is no file descriptor/],
    ['path=', /the path is empty/],
    ['path=a,fd=3', /one socket is all there is/],
    ['', /no value given/],
  ])('--api-socket %s is refused', async (value, message) => {
    const command = new Command(process.execPath, [MAIN, '--api-socket', value]);
    expect(await command.status).toBe(2);
    expect(command.output.stderr).toMatch(message);
  });

  test('a VM that cannot be made ends the process, and the socket', async () => {
    const command = new Command(process.execPath, [MAIN, '--api-socket', socket, '--kernel', MAIN]);
    expect(await command.status).toBe(2);
    expect(readdirSync(directory)).toEqual([]);
  });
});

describe('tsvmm ctl without a monitor', () => {
  test.each([
    [['ping'], 3, /there is no socket at .*api\.sock; is the VM running, and with --api-socket\?/],
    [['nothing'], 2, /there is no command "nothing"/],
    [[], 2, /no command given/],
    [['ping', 'x'], 2, /too many arguments. Write tsvmm ctl ping\./],
    [['snapshot'], 2, /an argument is missing. Write tsvmm ctl snapshot DIR \[--diff\]\./],
    [['resize'], 2, /--balloon: missing/],
    [['resize', '--balloon', 'much'], 2, /"much" is not a size/],
    [['ping', '--resume'], 2, /--resume does not go with ping/],
    [['vsock', 'connect', '-1'], 2, /./],
    [['vsock', 'connect', 'x'], 2, /"x" is no port/],
    [['restore', '/a', '--overrides', '{'], 2, /is not JSON/],
    [['create', '/nowhere'], 2, /cannot be read \(ENOENT\)/],
    [['--nonsense', 'ping'], 2, /nonsense/],
  ])('%j: %i', async (args, status, message) => {
    const result = await done(ctl(...args));
    expect(result).toMatchObject({ status, stdout: '' });
    expect(result.stderr).toMatch(message);
  });

  test('says that nobody listens, or that there is no socket', async () => {
    writeFileSync(socket, '');
    expect(await done(ctl('ping'))).toMatchObject({ status: 3, stderr: expect.stringContaining(socket) });
  });

  test('wants to know where the socket is', async () => {
    const command = new Command(process.execPath, [MAIN, 'ctl', 'ping'], { TSVMM_API_SOCKET: '' });
    expect(await done(command)).toMatchObject({ status: 2, stderr: expect.stringContaining('TSVMM_API_SOCKET') });
  });

  test('prints its help', async () => {
    const { status, stdout } = await done(ctl('--help'));
    expect(status).toBe(0);
    expect(stdout).toMatch(/vsock connect PORT[^]*Exit status:/);
  });
});

describeKvm('tsvmm ctl', () => {
  const ok = { status: 0, stderr: '' };

  test('the life of a VM', async () => {
    const vmm = await monitor();
    const config = join(directory, 'vm.yaml');
    writeFileSync(config, 'memory: { size: 67108864 }\nserial: { mode: "Null" }\nballoon: { size: 0 }\n');
    expect(await done(ctl('ping'))).toMatchObject({
      ...ok,
      stdout: expect.stringMatching(/^version +tsvmm .*\npid +\d+\n$/),
    });
    const refused = await done(ctl('info'));
    expect(refused).toMatchObject({ status: 1, stderr: expect.stringContaining('VM is not created') });
    const script = ['create', config].join(' ');
    const snapshot = join(directory, 'snapshot');
    const lines = [
      ...[script, 'boot', 'pause', `snapshot ${snapshot}`, 'resume', 'resize --balloon 1M', 'reboot', 'shutdown'],
      ...['delete', `restore ${snapshot} --resume`, `coredump ${join(directory, 'core')}`, 'nmi'],
    ];
    for (const line of lines) {
      expect([line, await done(ctl(...line.split(' ')))]).toEqual([line, { ...ok, stdout: '' }]);
    }
    const bad = await done(ctl('create', config));
    expect(bad).toMatchObject({ status: 1, stderr: expect.stringContaining('already created') });
    const byName = new Command(process.execPath, [REMOTE, 'shutdown-vmm'], { TSVMM_API_SOCKET: `path=${socket}` });
    expect(await done(byName)).toMatchObject(ok);
    expect(await vmm.status).toBe(0);
  }, 60_000);

  test('info and counters are tables, or what the API says', async () => {
    const vsock = join(directory, 'vm.vsock');
    await monitor(
      '--memory',
      'size=64M',
      '--serial',
      'null',
      '--vsock',
      `cid=3,socket=${vsock}`,
      '--balloon',
      'size=0',
    );
    await eventually('the VM runs', async () => (await callApi(socket, 'GET', 'vm.counters')).status === 200);
    const info = await done(ctl('info'));
    expect(info.stdout).toMatch(/^state +Running\nvCPUs +1\nmemory +64 MiB\nkernel +built in\n/);
    expect(info.stdout).toContain(`vsock    cid=3 socket=${vsock}\n`);
    expect((await done(ctl('counters'))).stdout).toMatch(/^_vsock {4}connectionsFromHost +0$/m);
    const json = JSON.parse((await done(ctl('info', '--json'))).stdout) as object;
    expect(json).toEqual((await callApi(socket, 'GET', 'vm.info')).body);
  });

  test('vsock connect joins standard input and output to a port, and says when nobody is there', async () => {
    const vsock = join(directory, 'vm.vsock');
    const vmm = await monitor('--memory', 'size=64M', '--vsock', `cid=3,socket=${vsock}`);
    await vmm.waitFor('stdout', /> $/);
    const text = 'all of it\n'.repeat(20_000);
    expect(await done(ctl('vsock', 'connect', '7'), text)).toEqual({ ...ok, stdout: text });
    expect(await done(ctl('vsock', 'connect', '9999'))).toMatchObject({
      status: 1,
      stderr: expect.stringContaining('nobody who listens at port 9999'),
    });
  });

  test.each(['pty', 'socket'])('console joins the terminal to a console at a %s, until the VM ends', async (mode) => {
    const serial = mode === 'pty' ? 'pty' : `socket=${join(directory, 'serial')}`;
    await monitor('--memory', 'size=64M', '--serial', serial);
    const console = ctl('console');
    console.type('help\r');
    await console.waitFor('stdout', /this list[^]*> $/);
    console.type('poweroff\r');
    expect(await console.status).toBe(0);
  });

  test('console says when there is none that it can reach', async () => {
    await monitor('--memory', 'size=64M', '--serial', 'null');
    expect(await done(ctl('console'))).toMatchObject({ status: 1, stderr: expect.stringContaining('--serial pty') });
  });
});
