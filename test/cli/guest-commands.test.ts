// `tsvmm exec` and `tsvmm cp` with the agent on this machine behind a socket that speaks as monitors do.

import { once } from 'node:events';
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { buffer } from 'node:stream/consumers';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { parseCp, parseExec, runCp, runExec } from '../../src/cli/guest-commands.js';
import { ProgramProcess } from '../support/program-streams.js';
import { FakeMonitor } from '../support/fake-monitor.js';
import { LocalAgent } from '../support/local-agent.js';

describe('the command line of tsvmm exec', () => {
  test('a socket, options, the program behind --', () => {
    const args = '--vsock /s --env A=b --cwd /c --user u --timeout 2 -- sh --env'.split(' ');
    expect(parseExec(args, {})).toEqual({
      socket: '/s',
      program: { argv: ['sh', '--env'], env: { A: 'b' }, cwd: '/c', user: 'u', timeout: 2000 },
    });
    expect(parseExec(['--', 'true'], { TSVMM_VSOCK: '/v' }).socket).toBe('/v');
  });

  test.each([
    ['-- true', 'MISSING_VALUE'],
    ['--vsock /s', 'MISSING_VALUE'],
    ['--vsock /s --', 'MISSING_VALUE'],
    ['--vsock /s true', 'UNEXPECTED_ARGUMENT'],
    ['--vsock /s --evn A=b -- true', 'UNKNOWN_OPTION'],
    ['--vsock cid=3,socket=/s -- true', 'SYNTAX'],
  ])('%s is refused: %s', (text, code) => {
    expect(() => parseExec(text.split(' '), {})).toThrow(expect.objectContaining({ code }));
  });
});

describe('the command line of tsvmm cp', () => {
  test('the side of the guest says which way', () => {
    expect(parseCp(['--vsock', '/s', '/a', 'guest:/b'], {})).toEqual({
      socket: '/s',
      direction: 'in',
      paths: { host: '/a', guest: '/b' },
      quiet: false,
    });
    expect(parseCp(['guest:/b/', '/a/', '--quiet', '--vsock=/s'], {})).toEqual({
      socket: '/s',
      direction: 'out',
      paths: { host: '/a/', guest: '/b/' },
      quiet: true,
    });
  });

  test.each([
    ['a', 'MISSING_VALUE'],
    ['a guest:/b c', 'MISSING_VALUE'],
    ['a b', 'CONFLICT'],
    ['guest:/a guest:/b', 'CONFLICT'],
    ['a guest:b', 'SYNTAX'],
    ['-r a guest:/b', 'UNKNOWN_OPTION'],
  ])('%s is refused: %s', (text, code) => {
    expect(() => parseCp(['--vsock', '/s', ...text.split(' ')], {})).toThrow(expect.objectContaining({ code }));
  });
});

describe('a guest that runs already', () => {
  let local: LocalAgent;
  let monitor: FakeMonitor | undefined;
  let here: ProgramProcess;
  let socket: string;

  beforeEach(async () => {
    local = await LocalAgent.start();
    here = new ProgramProcess();
    socket = local.path('monitor.vsock');
    monitor = await FakeMonitor.listen(socket, (port) => (port === 7350 ? local.socketPath : undefined));
  });
  afterEach(async () => {
    await monitor?.close();
    monitor = undefined;
    await local.stop();
    expect(here.signals.size).toBe(0);
    expect(here.deaths).toEqual([]);
  });

  function exec(...args: readonly string[]): Promise<number> {
    return runExec(parseExec(['--vsock', socket, ...args], {}), here.streams, here.host);
  }

  function cp(...args: readonly string[]): Promise<number> {
    return runCp(parseCp(['--vsock', socket, ...args], {}), here.stderr, here.host);
  }

  test('a program there has the streams of this process and gives it its exit code', async () => {
    const status = exec('--env', 'A=b', '--cwd', '/usr', '--', 'sh', '-c', 'cat; echo $A $PWD; exit 7');
    const output = buffer(here.stdout);
    here.stdin.end(Buffer.alloc(300_000, 'z'));
    expect(await status).toBe(7);
    here.stdout.end();
    expect((await output).toString()).toBe(`${'z'.repeat(300_000)}b /usr\n`);
    expect(monitor?.ports).toEqual([7350]);
  });

  test.each([
    [['--timeout', '0.5', '--', 'sleep', '1000'], 124],
    [['--', '/etc/passwd'], 126],
    [['--', 'no-such-program'], 127],
    [['--user', 'nobody-of-that-name', '--', 'true'], 125],
  ])('%j: %d', async (args, code) => {
    expect(await exec(...args)).toBe(code);
    expect(here.said.length).toBe(1);
  });

  test('a signal goes to the program; again, it ends the program with the connection', async () => {
    const status = exec('--', 'sh', '-c', 'trap "echo caught" INT; echo up; while :; do sleep 0.05; done');
    await once(here.stdout, 'readable');
    here.stdout.read();
    here.send('SIGINT');
    await once(here.stdout, 'readable');
    expect(String(here.stdout.read())).toBe('caught\n');
    here.send('SIGINT');
    expect(await status).toBe(130);
  });

  test('files and folders are copied both ways', async () => {
    mkdirSync(local.path('tree/sub'), { recursive: true });
    writeFileSync(local.path('tree/sub/file'), 'content');
    mkdirSync(local.path('into'));
    expect(await cp(local.path('tree'), `guest:${local.path('copy')}`)).toBe(0);
    expect(await cp(local.path('tree/sub/file'), `guest:${local.path('into')}/`)).toBe(0);
    expect(readFileSync(local.path('into/file'), 'utf8')).toBe('content');
    // A folder of the host is copied into, slash or not.
    expect(await cp(`guest:${local.path('copy/sub/file')}`, local.path('tree'))).toBe(0);
    expect(readdirSync(local.path('tree')).sort()).toEqual(['file', 'sub']);
    expect(here.said).toEqual([]);
  });

  test('a copy that fails is told, and leaves nothing', async () => {
    expect(await cp(local.path('none'), `guest:${local.path('copy')}`)).toBe(1);
    expect(await cp(`guest:${local.path('none')}`, local.path('copy'))).toBe(1);
    expect(here.said).toEqual([
      expect.stringContaining('on the host'),
      expect.stringContaining('the guest has nothing at'),
    ]);
    expect(existsSync(local.path('copy'))).toBe(false);
  });

  test('a signal breaks a copy off', async () => {
    await monitor?.close();
    // An agent that says nothing.
    const silent = createServer(() => {
      here.send('SIGTERM');
    });
    silent.listen(local.path('silent'));
    await once(silent, 'listening');
    monitor = await FakeMonitor.listen(socket, () => local.path('silent'));
    expect(await cp(local.path('none'), 'guest:/tmp/copy')).toBe(143);
    silent.close();
  });

  test('nobody at the socket, another socket, no agent: each is told', async () => {
    await monitor?.close();
    monitor = undefined;
    expect(await exec('--', 'true')).toBe(125);
    expect(here.said.pop()).toContain(`there is no socket at ${socket}`);

    writeFileSync(socket, '');
    expect(await exec('--', 'true')).toBe(125);
    expect(here.said.pop()).toContain(`nobody listens at ${socket}`);

    socket = local.path('other');
    const other = createServer((client) => client.end('HTTP/1.1 400 Bad Request\r\n\r\n'));
    other.listen(socket);
    await once(other, 'listening');
    expect(await exec('--', 'true')).toBe(125);
    expect(here.said.pop()).toContain(`what listens at ${socket} is no monitor's vsock socket`);
    other.close();

    socket = local.path('empty');
    monitor = await FakeMonitor.listen(socket, () => undefined);
    expect(await exec('--', 'true')).toBe(125);
    expect(here.said.pop()).toContain('no agent answers in the guest');
  });

  test('what answers there in another way is no agent', async () => {
    const other = createServer((client) =>
      client.end('220 mail ready; and more words than a frame has of a header\r\n'),
    );
    other.listen(local.path('mail'));
    await once(other, 'listening');
    await monitor?.close();
    monitor = await FakeMonitor.listen(socket, () => local.path('mail'));
    expect(await exec('--', 'true')).toBe(125);
    expect(here.said.pop()).toContain('no agent of tsvmm');
    other.close();
  });
});
