// The command under a supervisor: events, its log file, signals that give the guest time, and an API that outlives the VM.

import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, openSync, closeSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { request, type IncomingMessage } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { describeKvm } from '../../support/kvm.js';
import { eventually } from '../../support/process-state.js';
import { CODE, writeKernel } from '../../support/tiny-kernel.js';
import { connectVsock, readAll } from '../../support/vsock-client.js';

const MAIN = fileURLToPath(new URL('../../../src/cli/main.js', import.meta.url));
const ECHO_PORT = 7;

let directory = '';
const children = new Set<ChildProcess>();
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'tsvmm-operating-'));
});
afterEach(async () => {
  for (const child of children) {
    const closed = once(child, 'close');
    child.kill('SIGKILL');
    await closed;
  }
  rmSync(directory, { recursive: true });
});

/** Runs the command; `extra` is its descriptor 3. */
function run(args: readonly string[], extra: number | 'ignore' = 'ignore') {
  const common = ['--memory', 'size=64M', '--serial', 'null'];
  const child = spawn(process.execPath, [MAIN, ...common, ...args], { stdio: ['ignore', 'ignore', 'pipe', extra] });
  const output = { stderr: '' };
  child.stderr?.on('data', (bytes: Buffer) => (output.stderr += bytes.toString()));
  children.add(child);
  const status = once(child, 'close').then(([code, signal]: unknown[]) => {
    children.delete(child);
    return code ?? signal;
  });
  return { child, output, status };
}

const contents = (path: string): string => (existsSync(path) ? readFileSync(path, 'utf8') : '');

/** The events that were written to `path`, each as `source event`. */
const eventsIn = (path: string): string[] =>
  contents(path)
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => {
      const { source, event } = JSON.parse(line) as { source: string; event: string };
      return `${source} ${event}`;
    });

describeKvm('the command under a supervisor', () => {
  test('writes its events, those of vsock connections with -vv', async () => {
    const events = join(directory, 'events');
    const socket = join(directory, 'vsock');
    const vm = run(['--event-monitor', `path=${events}`, '--vsock', `cid=3,socket=${socket}`, '-vv']);
    await eventually('the guest boots', () => eventsIn(events).includes('vm booted'));
    const echoed = await (async (): Promise<string> => {
      for (;;) {
        const client = await connectVsock(socket, ECHO_PORT).catch(() => undefined);
        if (client === undefined) continue;
        client.end('hello');
        return (await readAll(client)).toString();
      }
    })();
    expect(echoed).toBe('hello');
    await eventually('the connection ends', () => eventsIn(events).includes('vsock disconnected'));
    vm.child.kill('SIGTERM');
    expect(await vm.status).toBe(143);
    expect(eventsIn(events).filter((line) => line !== 'vsock disconnected')).toEqual([
      ...['vmm starting', 'vm booting', 'vm booted', 'vsock connected', 'vm shutdown', 'vmm shutdown'],
    ]);
  });

  test('writes its events to a descriptor that it was given, without those of connections', async () => {
    const events = join(directory, 'events');
    const fd = openSync(events, 'w');
    const kernel = writeKernel(directory, CODE.powerOff);
    const vm = run(['--event-monitor', 'fd=3', '--kernel', kernel], fd);
    closeSync(fd);
    expect(await vm.status).toBe(0);
    expect(eventsIn(events)).toEqual(['vmm starting', 'vm booting', 'vm booted', 'vm shutdown', 'vmm shutdown']);
    expect(vm.output.stderr).toBe('');
  });

  test('goes on in a new log file after SIGUSR1, and says when it cannot', async () => {
    const log = join(directory, 'log');
    const vm = run(['--log-file', log, '--log-format', 'json', '-v', '--log-level', 'vcpu=silly', '-v']);
    await eventually('a line', () => contents(log).includes('"component":"vcpu0"'));
    renameSync(log, `${log}.1`);
    vm.child.kill('SIGUSR1');
    await eventually('a new file', () => existsSync(log));
    vm.child.kill('SIGTERM');
    expect(await vm.status).toBe(143);
    expect(contents(log)).toMatch(/^\{"timestamp":"[^"]+Z","level":"debug","component":"vmm","message":"start times/m);
    for (const line of (contents(log) + contents(`${log}.1`)).trimEnd().split('\n')) JSON.parse(line);

    const away = `${directory}.away`;
    const second = run(['--log-file', log, '-vv']);
    await eventually('a line', () => contents(log).includes('running'));
    renameSync(directory, away);
    try {
      second.child.kill('SIGUSR1');
      await eventually('a complaint', () => second.output.stderr.includes('cannot be opened again (ENOENT)'));
      second.child.kill('SIGTERM');
      expect(await second.status).toBe(143);
      expect(contents(join(away, 'log'))).toContain('start times');
    } finally {
      renameSync(away, directory);
    }
  });

  test('gives the guest time to shut down, if it is told to', async () => {
    const events = join(directory, 'events');
    const kernel = writeKernel(directory, CODE.powerOffAtButton);
    const args = ['--kernel', kernel, '--event-monitor', `path=${events}`];
    const patient = run([...args, '--shutdown-timeout', '600']);
    await eventually('the guest boots', () => eventsIn(events).includes('vm booted'));
    patient.child.kill('SIGTERM');
    expect(await patient.status).toBe(0);
    rmSync(events);

    const deaf = writeKernel(directory, CODE.spin);
    const impatient = run(['--kernel', deaf, '--event-monitor', `path=${events}`, '-v', '--shutdown-timeout', '600']);
    await eventually('the guest boots', () => eventsIn(events).includes('vm booted'));
    impatient.child.kill('SIGTERM');
    // Two signals that come together are one.
    await eventually('it is heard', () => impatient.output.stderr.includes('the power button is pressed'));
    impatient.child.kill('SIGTERM');
    expect(await impatient.status).toBe(143);
  });

  test('shows its metrics at the API socket, with a VM and without', async () => {
    const socket = join(directory, 'api');
    const kernel = writeKernel(directory, CODE.exits);
    const vm = run([
      '--kernel',
      kernel,
      '--vsock',
      `cid=3,socket=${socket}.vsock`,
      '--api-socket',
      `path=${socket}`,
      '--watchdog',
    ]);
    await eventually('the socket is there', () => existsSync(socket));
    while ((await state(socket)) !== 'Running');
    const metrics = await ask(socket, 'GET', '/metrics');
    expect(metrics.type).toBe('text/plain; version=0.0.4; charset=utf-8');
    expect(metrics.body).toMatch(/^tsvmm_vm_state\{state="running"\} 1$/m);
    expect(metrics.body).toMatch(/^tsvmm_device_info\{device="_vsock",kind="vsock"\} 1$/m);
    expect(metrics.body).toMatch(/^# TYPE tsvmm_vcpu_exits_total counter\ntsvmm_vcpu_exits_total\{vcpu="0"\} \d+$/m);
    expect(metrics.body).toMatch(/^tsvmm_vsock_receive_bytes_total\{device="_vsock"\} 0$/m);
    await api(socket, 'PUT', 'vm.delete');
    const without = await ask(socket, 'GET', '/metrics');
    expect(without.body).toMatch(/^process_resident_memory_bytes \d+$/m);
    expect(without.body).not.toMatch(/^tsvmm_vm_state.* 1$/m);
    await api(socket, 'PUT', 'vmm.shutdown');
    expect(await vm.status).toBe(0);
  });

  test('goes on without a VM, if it is told to', async () => {
    const socket = join(directory, 'api');
    const kernel = writeKernel(directory, CODE.powerOff);
    const vm = run(['--kernel', kernel, '--api-socket', `path=${socket}`, '--no-shutdown']);
    await eventually('the socket is there', () => existsSync(socket));
    let now: string | undefined;
    while (now !== 'Shutdown') now = await state(socket);
    await api(socket, 'PUT', 'vm.boot');
    while ((await state(socket)) !== 'Shutdown');
    await api(socket, 'PUT', 'vmm.shutdown');
    expect(await vm.status).toBe(0);
    expect(vm.output.stderr).toBe('');
  });
});

async function ask(socketPath: string, method: 'GET' | 'PUT', path: string) {
  const asked = request({ socketPath, method, path, agent: false });
  asked.end();
  const [response] = (await once(asked, 'response')) as [IncomingMessage];
  let body = '';
  for await (const piece of response as AsyncIterable<Buffer>) body += piece.toString();
  return { type: response.headers['content-type'], body };
}

async function api(socketPath: string, method: 'GET' | 'PUT', endpoint: string): Promise<string> {
  return (await ask(socketPath, method, `/api/v1/${endpoint}`)).body;
}

async function state(socketPath: string): Promise<string | undefined> {
  return (JSON.parse(await api(socketPath, 'GET', 'vm.info')) as { state?: string }).state;
}
