// The HTTP server over a real Unix socket, with VMs that are not real. Every answer is checked against docs/openapi.yaml.

import { once } from 'node:events';
import { existsSync, mkdtempSync, rmSync, statSync } from 'node:fs';
import { connect, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { ENDPOINTS } from '../../src/api/endpoints.js';
import { Monitor } from '../../src/api/monitor.js';
import { ApiServer, type ExtraRoute } from '../../src/api/server.js';
import { check, libc } from '../../src/platform/libc.js';
import { HostSocket } from '../../src/vmm/host-socket.js';
import { VmError } from '../../src/vmm/errors.js';
import { type ApiAnswer, callApi, openApi } from '../support/api-client.js';
import { FakeFactory } from '../support/fake-vm.js';

const CONFIG = { memory: { size: 64 << 20 }, serial: { mode: 'Null' }, balloon: { size: 0 } };
const EXTRA: ExtraRoute = { path: '/metrics', contentType: 'text/plain; version=0.0.4', body: () => 'vm_up 1\n' };

let directory = '';
let path = '';
let factory = new FakeFactory();
let monitor = new Monitor({ factory });
let listener: HostSocket | undefined;
let server: ApiServer | undefined;
let sockets: Socket[] = [];

beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), 'tsvmm-api-'));
  path = join(directory, 'api.sock');
  factory = new FakeFactory();
  monitor = new Monitor({ factory });
  sockets = [];
  listener = new HostSocket('--api-socket', path, { isPrivate: true });
  const fd = check(libc.dup(listener.fd), 'dup');
  server = await ApiServer.start({ fd }, { monitor, extraRoutes: [EXTRA] });
});
afterEach(async () => {
  listener?.close();
  for (const socket of sockets) socket.destroy();
  await server?.close();
  rmSync(directory, { recursive: true });
});

const put = (name: string, body?: unknown): Promise<ApiAnswer> => callApi(path, 'PUT', name, body);
const get = (name: string): Promise<ApiAnswer> => callApi(path, 'GET', name);

/** A connection that says what it is told to. */
async function dial(): Promise<Socket> {
  const socket = connect(path);
  sockets.push(socket);
  await once(socket, 'connect');
  return socket;
}

async function readAll(socket: Socket): Promise<string> {
  let text = '';
  for await (const piece of socket.setEncoding('latin1')) text += String(piece);
  return text;
}

test('the document and the server have the same endpoints', () => {
  expect(openApi.endpoints.sort()).toEqual(ENDPOINTS.map(({ method, name }) => `${method} ${name}`).sort());
});

test('the summaries of the document are those of the server', () => {
  const { paths } = openApi.document;
  for (const { name, method, summary } of ENDPOINTS.filter((each) => !each.summary.startsWith('Refused'))) {
    expect([name, paths[`/${name}`][method === 'GET' ? 'get' : 'put']?.summary]).toEqual([name, summary]);
  }
});

describe('the life of a VM', () => {
  test('from ping to vmm.shutdown', async () => {
    expect((await get('vmm.ping')).body).toMatchObject({ pid: process.pid, features: ['kvm'] });
    expect((await put('vm.create', CONFIG)).status).toBe(204);
    expect((await get('vm.info')).body).toMatchObject({ state: 'Created', memory_actual_size: 64 << 20 });
    expect((await put('vm.boot')).status).toBe(204);
    expect((await get('vm.info')).body).toMatchObject({ state: 'Running', config: { memory: { size: 64 << 20 } } });
    expect((await get('vm.counters')).body).toEqual({
      _balloon: { actualBytes: 4096, targetBytes: 8192 },
      _vsock: { rxBytes: 3 },
    });
    const orders = ['vm.pause', 'vm.resume', 'vm.power-button', 'vm.nmi', 'vm.reboot'];
    for (const order of orders) expect([order, (await put(order)).status]).toEqual([order, 204]);
    expect((await put('vm.resize', { desired_balloon: 8192, desired_vcpus: null })).status).toBe(204);
    expect((await put('vm.coredump', { destination_url: '/core' })).status).toBe(204);
    await put('vm.pause');
    expect((await put('vm.snapshot', { destination_url: 'file:///a%20b' })).status).toBe(204);
    expect((await put('vm.snapshot', { destination_url: '/c', diff: true })).status).toBe(204);
    expect((await get('vm.info')).body).toMatchObject({ state: 'Paused' });
    expect((await put('vm.shutdown')).status).toBe(204);
    expect(factory.vm.calls).toEqual([
      ...['start', 'pause', 'resume', 'powerButton', 'nmi', 'reboot', 'balloon 8192', 'coredump /core', 'pause'],
      ...['snapshot /a b', 'snapshot /c as a diff', 'stop'],
    ]);
    expect((await put('vm.delete')).status).toBe(204);
    const restore = {
      source_url: 'file:///snap',
      resume: true,
      prefault: true,
      overrides: { vsock: { socket: '/b' } },
    };
    expect((await put('vm.restore', restore)).status).toBe(204);
    expect(factory.restored).toEqual([['/snap', { vsock: { socket: '/b' }, memory: { prefault: true } }]]);
    expect((await put('vmm.shutdown')).status).toBe(204);
    await monitor.closed;
  });

  test('a VM that was told of can be made again, pseudo-terminal and all', async () => {
    await put('vm.create', { ...CONFIG, serial: { mode: 'Pty' } });
    await put('vm.boot');
    const { config } = (await get('vm.info')).body as { config: unknown };
    expect(config).toMatchObject({ serial: { mode: 'Pty', file: '/dev/pts/7' } });
    await put('vm.delete');
    expect((await put('vm.create', config)).status).toBe(204);
  });
});

describe('refusals', () => {
  const needVm = ENDPOINTS.filter(({ name }) => !/^vmm|create|delete|restore$/.test(name));
  test.each(needVm.map(({ method, name }) => [method, name]))('%s %s without a VM: 404', async (method, name) => {
    const body = method === 'GET' ? undefined : bodyOf(name);
    const { status, body: messages } = await callApi(path, method, name, body);
    expect(status).toBe(404);
    expect(messages).toEqual(['Error from API', expect.any(String), expect.stringContaining('VM is not created')]);
  });

  const bodied = [
    'vm.create',
    'vm.resize',
    'vm.snapshot',
    'vm.restore',
    'vm.coredump',
    'vm.add-disk',
    'vm.remove-device',
  ];
  test.each(bodied)('PUT %s without a body: 400', async (name) => {
    expect(await put(name)).toMatchObject({ status: 400, body: ['Bad Request', expect.stringContaining('JSON body')] });
  });

  test.each(ENDPOINTS.map(({ method, name }) => [method, name]))(
    '%s %s by another method: 400',
    async (method, name) => {
      const other = method === 'GET' ? 'PUT' : 'GET';
      const answer = await callApi(path, other, name);
      expect(answer).toMatchObject({ status: 400, body: ['Bad Request', `${name} takes ${method}, not ${other}`] });
    },
  );

  const orders = ENDPOINTS.filter(({ method, name }) => method === 'PUT' && bodyOf(name) === undefined);
  test.each(orders.map(({ name }) => name))('PUT %s takes an empty body, and no other', async (name) => {
    expect(await put(name, { a: 1 })).toMatchObject({ status: 400 });
    for (const empty of ['', '{}', 'null']) expect((await put(name, empty)).body ?? []).not.toContain('Bad Request');
  });

  test.each([
    ['vm.create', '{"a"', 400, /JSON/],
    ['vm.create', { memory: { size: 1 } }, 400, /memory.size: /],
    ['vm.create', { disks: [{ path: 7 }] }, 400, /disks\[0\]\.path: 7 is not a string/],
    ['vm.create', { vsock: { cid: 2 } }, 400, /vsock\.cid: 2 is the host itself/],
    ['vm.create', [], 400, /./],
    ['vm.resize', { desired_balloon: -1 }, 400, /desired_balloon: /],
    ['vm.resize', { balloon: 1 }, 400, /balloon/],
    ['vm.resize', { desired_vcpus: 4 }, 500, /not plugged in/],
    ['vm.snapshot', { destination_url: 'http://host/snap' }, 400, /Write file:/],
    ['vm.snapshot', { destination_url: 'snap' }, 400, /Write file:/],
    ['vm.snapshot', { destination_url: '/snap' }, 405, /not paused/],
    ['vm.restore', { source_url: '/snap' }, 500, /already created/],
    ['vm.restore', { source_url: '/snap', net_fds: [{}] }, 400, /descriptors/],
    ['vm.boot', undefined, 405, /already booted/],
    ['vm.resume', undefined, 405, /not paused/],
    ['vm.add-net', { tap: 'a' }, 500, /devices are not plugged in/],
    ['vm.send-migration', {}, 500, /no live migration/],
  ])('%s %j: %i %s', async (name, body, status, message) => {
    await put('vm.create', CONFIG);
    await put('vm.boot');
    const answer = await put(name, body);
    expect(answer.status).toBe(status);
    expect((answer.body as string[]).join(': ')).toMatch(message);
  });

  test('a VM that cannot be made is told of with its causes', async () => {
    await put('vm.create', CONFIG);
    factory.failure = new VmError('KVM_PERMISSION', 'no permission', 'join the group', new Error('open: EACCES'));
    expect(await put('vm.boot')).toMatchObject({
      status: 500,
      body: ['Error from API', 'The VM could not boot', 'no permission; join the group', 'open: EACCES'],
    });
  });

  test('a VM that ends meanwhile is in the wrong state', async () => {
    await put('vm.create', CONFIG);
    await put('vm.boot');
    factory.vm.failures.set('pause', new VmError('NOT_RUNNING', 'a VM that does not run cannot pause', 'start it'));
    expect((await put('vm.pause')).status).toBe(405);
  });

  test('what is nowhere is not found', async () => {
    for (const name of ['vm.nothing', '/', '/api/v2/vmm.ping']) {
      expect(await get(name)).toMatchObject({ status: 404, body: ['Not Found', expect.any(String)] });
    }
  });

  /** Some body that the endpoint would take. */
  function bodyOf(name: string): object | undefined {
    if (name === 'vm.create') return CONFIG;
    if (name === 'vm.restore') return { source_url: '/snap' };
    if (name === 'vm.snapshot' || name === 'vm.coredump') return { destination_url: '/there' };
    const own = ENDPOINTS.find((each) => each.name === name);
    return name === 'vm.resize' || own?.summary.startsWith('Refused') === true ? {} : undefined;
  }
});

describe('the server', () => {
  test('is for its owner alone', () => {
    expect(statSync(path).mode & 0o777).toBe(0o600);
  });

  test('serves what is added to it', async () => {
    const socket = await dial();
    socket.end('GET /metrics HTTP/1.0\r\n\r\n');
    const text = await readAll(socket);
    expect(text).toMatch(/^HTTP\/1\.1 200 /);
    expect(text).toMatch(/content-type: text\/plain; version=0\.0\.4/i);
    expect(text).toMatch(/\r\n\r\nvm_up 1\n$/);
  });

  test.each(['', 'Host: \r\n', 'Host: a/b ?\r\n', 'Host: localhost\r\n'])(
    'does not mind the header %j',
    async (host) => {
      const socket = await dial();
      socket.end(`GET /api/v1/vmm.ping HTTP/1.1\r\n${host}Connection: close\r\n\r\n`);
      expect(await readAll(socket)).toMatch(/^HTTP\/1\.1 200 /);
    },
  );

  test('answers what is not HTTP, and closes', async () => {
    const socket = await dial();
    socket.end('CONNECT 7\n\n');
    const text = await readAll(socket);
    expect(text).toMatch(/^HTTP\/1\.1 400 /);
    expect(JSON.parse(text.slice(text.indexOf('\r\n\r\n')))).toEqual(['Bad Request', expect.any(String)]);
  });

  test('takes no body beyond 1 MiB, announced or not', async () => {
    const long = ' '.repeat((1 << 20) + 1);
    const chunked = await put('vm.create', long);
    expect(chunked).toMatchObject({ status: 413, body: ['Payload Too Large', expect.any(String)] });
    const socket = await dial();
    socket.write(`PUT /api/v1/vm.create HTTP/1.1\r\nHost: a\r\nContent-Length: ${long.length}\r\n\r\n`);
    const [head] = (await once(socket, 'data')) as [Buffer];
    expect(head.toString()).toMatch(/^HTTP\/1\.1 413 /);
    expect((await get('vmm.ping')).status).toBe(200);
  });

  test('answers others while one request waits', async () => {
    await put('vm.create', CONFIG);
    let release = (): void => undefined;
    factory.hold = new Promise((resolve) => {
      release = resolve;
    });
    const booting = put('vm.boot');
    expect((await get('vmm.ping')).status).toBe(200);
    expect((await get('vm.info')).body).toMatchObject({ state: 'Created' });
    release();
    expect((await booting).status).toBe(204);
  });

  test('ends though clients have half-open requests, idle connections and answers that never come', async () => {
    await put('vm.create', CONFIG);
    await put('vm.boot');
    factory.vm.holds.set('pause', new Promise(() => undefined));
    const [idle, half, waiting] = [await dial(), await dial(), await dial()];
    const closed = [idle, half, waiting].map((socket) => {
      socket.on('error', () => undefined).resume();
      return once(socket, 'close');
    });
    half.write('PUT /api/v1/vm.create HTTP/1.1\r\nContent-Le');
    waiting.write('PUT /api/v1/vm.pause HTTP/1.1\r\nHost: a\r\n\r\n');
    // When this is answered, what was written before has come.
    await get('vmm.ping');
    listener?.close();
    listener = undefined;
    expect(existsSync(path)).toBe(false);
    await server?.close();
    server = undefined;
    await Promise.all(closed);
  });

  test('outlives clients that send anything, and leave at any moment', async () => {
    await put('vm.create', CONFIG);
    const request = `PUT /api/v1/vm.resize HTTP/1.1\r\nHost: a\r\nContent-Length: 24\r\n\r\n{"desired_balloon":4096}`;
    const samples = fc.sample(
      fc.oneof(
        fc.uint8Array({ maxLength: 200 }),
        fc.nat(request.length).map((length) => Buffer.from(request.slice(0, length))),
        fc
          .tuple(fc.nat(request.length - 1), fc.nat(255))
          .map(([at, byte]) => Buffer.from(request).fill(byte, at, at + 1)),
      ),
      300,
    );
    for (const [index, sample] of samples.entries()) {
      const socket = await dial();
      socket.on('error', () => undefined).resume();
      const closed = once(socket, 'close');
      if (index % 2 === 0) socket.end(sample);
      else socket.write(sample, () => socket.destroy());
      await closed;
    }
    expect((await get('vmm.ping')).status).toBe(200);
    expect(monitor.state).toBe('Created');
  }, 60_000);

  test('answers vmm.shutdown before it ends', async () => {
    const answered = put('vmm.shutdown');
    await monitor.closed;
    const closing = server?.close();
    expect((await answered).status).toBe(204);
    await closing;
    server = undefined;
  });

  test('cannot serve what is no socket that listens', async () => {
    const plain = createServer();
    plain.listen(join(directory, 'other'));
    await once(plain, 'listening');
    await expect(ApiServer.start({ fd: 1_000_000 }, { monitor })).rejects.toThrow();
    plain.close();
    await once(plain, 'close');
  });
});
