// The web server of the built-in guest on vsock port 80, with the clients that people have: node:http over `vm.vsock`, and
// curl through a TCP port of the host.

import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { request, type Agent, type IncomingMessage, type RequestOptions } from 'node:http';
import { createServer, type AddressInfo } from 'node:net';
import { finished } from 'node:stream/promises';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { GuestAgent } from '../../../examples/web/guest-agent.js';
import { MIB } from '../../../src/platform/units.js';
import { Vm, type VsockStream } from '../../../src/index.js';
import { describeKvm } from '../../support/kvm.js';
import { Random } from '../../support/random.js';
import { describeWithTool } from '../../support/tools.js';
import { testConfig } from '../../support/vms.js';

const HTTP = 80;
/** How many connections the guest serves at once, with memory enough. */
const MAX_SESSIONS = 128;
/** Chargen's pattern: lines of 72 out of the 95 printable characters, each beginning one further on. */
const PATTERN = Buffer.from(
  Array.from({ length: 95 }, (_, line) => {
    const characters = Array.from({ length: 72 }, (_, column) => String.fromCharCode(32 + ((line + column) % 95)));
    return `${characters.join('')}\r\n`;
  }).join(''),
);

describeKvm('the web server of the built-in guest', () => {
  let vm: Vm;
  let agent: GuestAgent;

  beforeAll(async () => {
    vm = await Vm.create(testConfig({ memory: { size: 256 * MIB }, vsock: { cid: 3 } }));
    await vm.start();
    await vm.console.waitFor('http 80');
    agent = new GuestAgent(vm.vsock, HTTP);
  });
  afterAll(async () => {
    agent.destroy();
    await vm.stop();
  });

  async function ask(path: string, options: RequestOptions = {}): Promise<Answer> {
    return readAnswer(await send(agent, path, options));
  }

  /** Sends `text` as it is and ends; what came back until the guest closed. */
  async function raw(text: string): Promise<string> {
    const stream = await vm.vsock.connect(HTTP);
    stream.end(Buffer.from(text, 'latin1'));
    return readAll(stream);
  }

  const statusOf = async (text: string): Promise<number> => Number((await raw(text)).slice(9, 12));

  describe('what it serves', () => {
    test('/ is a page about this guest', async () => {
      const { status, headers, body } = await ask('/');
      expect([status, headers['content-type']]).toEqual([200, 'text/html; charset=utf-8']);
      expect(Number(headers['content-length'])).toBe(body.length);
      const page = body.toString();
      expect(page).toContain('<h1>Hello from a microVM</h1>');
      expect(page).toContain('<dt>Memory</dt><dd>256 MiB</dd>');
      expect(page).toContain('chargen 19, http 80');
      expect(page).toMatch(/<\/html>\n$/);
      // Whatever shows the page, it loads nothing from elsewhere.
      expect(page).not.toMatch(/https?:|src=|url\(/);
    });

    test('/stats is JSON, and counts requests', async () => {
      const read = async (): Promise<Record<string, unknown>> =>
        JSON.parse((await ask('/stats?as=json')).body.toString()) as Record<string, unknown>;
      const first = await read();
      expect(first).toMatchObject({ guest: 'tsvmm guest', cid: 3 });
      expect(first['memory_bytes']).toBeGreaterThan(255 * MIB);
      const second = await read();
      expect(second['requests']).toBe(Number(first['requests']) + 1);
      expect(second['uptime_us']).toBeGreaterThan(Number(first['uptime_us']));
    });

    test.each([0, 1, 7029, 7030, 7031, 65_536, 65_537, 1_000_003])('/bytes/%d is so much of the pattern', async (n) => {
      const { status, headers, body } = await ask(`/bytes/${n}`);
      expect([status, Number(headers['content-length'])]).toEqual([200, n]);
      expect(body.equals(pattern(n))).toBe(true);
    });

    test('HEAD has the header fields of GET and no body', async () => {
      const { status, headers, body } = await ask('/bytes/1000', { method: 'HEAD' });
      expect([status, headers['content-length'], body.length]).toEqual([200, '1000', 0]);
    });

    test('the date is the present one', async () => {
      const { headers } = await ask('/');
      expect(headers.date).toMatch(/^(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT$/);
      const date = new Date(String(headers.date));
      expect(Math.abs(date.getTime() - Date.now())).toBeLessThan(60_000);
      expect(date.toUTCString()).toBe(headers.date);
    });

    test.each([
      ['/nowhere', 404],
      ['/bytes', 404],
      ['/bytes/', 400],
      ['/bytes/ten', 400],
      ['/bytes/-1', 400],
      ['/bytes/1099511627777', 400],
      ['/bytes/99999999999999999999999', 400],
    ])('%s is answered with %d', async (path, expected) => {
      const { status, body } = await ask(path);
      expect(status).toBe(expected);
      expect(body.toString()).toMatch(new RegExp(`^${expected} `));
    });

    test('other methods are answered with 405, which names those that there are', async () => {
      for (const method of ['POST', 'PUT', 'DELETE', 'OPTIONS']) {
        const { status, headers } = await ask('/', { method });
        expect([status, headers.allow]).toEqual([405, 'GET, HEAD']);
      }
    });
  });

  describe('its connections', () => {
    test('stay for the next request', async () => {
      const single = new GuestAgent(vm.vsock, HTTP, { maxSockets: 1 });
      const before = vm.vsock.counters().connectionsFromHost;
      try {
        for (let i = 0; i < 20; i++) await readAnswer(await send(single, '/'));
        expect(vm.vsock.counters().connectionsFromHost).toBe(before + 1);
      } finally {
        single.destroy();
      }
    });

    test('close after the answer when asked to, and say so; HTTP/1.0 asks', async () => {
      for (const head of ['GET / HTTP/1.1\r\nHost: a\r\nConnection: x, Close\r\n\r\n', 'GET / HTTP/1.0\r\n\r\n']) {
        const stream = await vm.vsock.connect(HTTP);
        stream.write(head);
        expect(await readAll(stream)).toMatch(/\r\nConnection: close\r\n/);
      }
    });

    test('take requests before the last one was answered, and answer them in turn', async () => {
      const paths = ['/bytes/5', '/nowhere', '/bytes/100000', '/bytes/3', '/stats'];
      const requests = paths.map((path) => `GET ${path} HTTP/1.1\r\nHost: a\r\n\r\n`).join('');
      const answers = splitAnswers(await raw(`\r\n${requests}`));
      expect(answers.map(({ status }) => status)).toEqual([200, 404, 200, 200, 200]);
      expect(answers.map(({ body }) => body.length).slice(0, 4)).toEqual([5, 14, 100_000, 3]);
    });

    test('hundreds of requests at once are all answered', async () => {
      const answers = splitAnswers(await raw('GET /bytes/10 HTTP/1.1\r\nHost: a\r\n\r\n'.repeat(2000)));
      expect(answers.filter(({ status, body }) => status === 200 && body.length === 10)).toHaveLength(2000);
    });

    test('a request may come a byte at a time', async () => {
      const stream = await vm.vsock.connect(HTTP);
      for (const byte of 'GET /bytes/4 HTTP/1.1\r\nHost: somewhere\r\nConnection: close\r\n\r\n') {
        stream.write(byte);
        // A packet of its own.
        await new Promise(setImmediate);
      }
      expect(await readAll(stream)).toMatch(/^HTTP\/1\.1 200 OK\r\n[^]*\r\n\r\n !"#$/);
    });

    test('a body is passed over, whatever it contains', async () => {
      const body = 'GET /bytes/1 HTTP/1.1\r\nHost: a\r\n\r\n'.repeat(3000);
      const answers = splitAnswers(
        await raw(
          `POST / HTTP/1.1\r\nHost: a\r\nContent-Length: ${body.length}\r\n\r\n${body}GET /bytes/2 HTTP/1.1\r\nHost: a\r\n\r\n`,
        ),
      );
      expect(answers.map(({ status, body: { length } }) => [status, length])).toEqual([
        [405, 23],
        [200, 2],
      ]);
    });

    test('a reader that stops stops its own answer only', async () => {
      const stopped = await vm.vsock.connect(HTTP);
      stopped.write('GET /bytes/1000000000 HTTP/1.1\r\nHost: a\r\n\r\n');
      await once(stopped, 'readable');
      for (let i = 0; i < 5; i++) expect((await ask('/bytes/100000')).body).toHaveLength(100_000);
      // What is under way fills this side's buffers, and no more.
      expect(stopped.bytesRead).toBeLessThan(64 * MIB);
      stopped.destroy();
      await finished(stopped).catch(() => undefined);
    });

    test('one that breaks off in the middle harms nobody', async () => {
      for (let i = 0; i < 50; i++) {
        const stream = await vm.vsock.connect(HTTP);
        stream.write(i % 2 === 0 ? 'GET /bytes/100000000 HTTP/1.1\r\nHost: a\r\n\r\n' : 'GET / HT');
        if (i % 3 === 0 && i % 2 === 0) await once(stream, 'readable');
        stream.destroy();
      }
      expect((await ask('/')).status).toBe(200);
    });

    test('idle and slow ones keep nobody out: the one that has waited longest goes', async () => {
      const idle: VsockStream[] = [];
      try {
        for (let i = 0; i < MAX_SESSIONS; i++) {
          const stream = await vm.vsock.connect(HTTP);
          stream.resume();
          idle.push(stream);
          if (i % 2 === 0) stream.write('GET / HTTP/1.1\r\nHo');
        }
        const oldest = idle[0];
        const newest = idle[MAX_SESSIONS - 1];
        // The agent's own connections are older, and go first.
        for (let i = 0; i <= MAX_SESSIONS && !oldest.readableEnded; i++) {
          const stream = await vm.vsock.connect(HTTP);
          idle.push(stream);
          stream.write('GET /bytes/10 HTTP/1.1\r\nHost: a\r\n\r\n');
          expect(await firstLine(stream)).toBe('HTTP/1.1 200 OK');
          stream.resume();
        }
        expect([oldest.readableEnded, oldest.errored]).toEqual([true, null]);
        newest.write('GET / HTTP/1.0\r\n\r\n');
        await finished(newest);
        expect(newest.bytesRead).toBeGreaterThan(1000);
      } finally {
        for (const stream of idle) stream.destroy();
      }
      expect((await ask('/')).status).toBe(200);
    });
  });

  describe('malformed requests', () => {
    const host = 'Host: a\r\n';
    test.each([
      ['no Host', 'GET / HTTP/1.1\r\n\r\n', 400],
      ['two Hosts', `GET / HTTP/1.1\r\n${host}${host}\r\n`, 400],
      ['two blanks', `GET  / HTTP/1.1\r\n${host}\r\n`, 400],
      ['no version', 'GET /\r\n\r\n', 400],
      ['no target', `GET HTTP/1.1\r\n${host}\r\n`, 400],
      ['a target of another form', `GET www.example.org HTTP/1.1\r\n${host}\r\n`, 400],
      ['a method that is no token', `G@T / HTTP/1.1\r\n${host}\r\n`, 400],
      ['a version in lower case', `GET / http/1.1\r\n${host}\r\n`, 400],
      ['a control character in the line', `GET /\x01 HTTP/1.1\r\n${host}\r\n`, 400],
      ['a NUL in a field', `GET / HTTP/1.1\r\n${host}X: \0\r\n\r\n`, 400],
      ['a folded line', `GET / HTTP/1.1\r\n${host}X: a\r\n b\r\n\r\n`, 400],
      ['a blank before the colon', `GET / HTTP/1.1\r\n${host}X : a\r\n\r\n`, 400],
      ['a field without a colon', `GET / HTTP/1.1\r\n${host}X\r\n\r\n`, 400],
      ['a field without a name', `GET / HTTP/1.1\r\n${host}: a\r\n\r\n`, 400],
      ['a length that is no number', `POST / HTTP/1.1\r\n${host}Content-Length: 1a\r\n\r\n`, 400],
      ['a negative length', `POST / HTTP/1.1\r\n${host}Content-Length: -1\r\n\r\n`, 400],
      ['two lengths', `POST / HTTP/1.1\r\n${host}Content-Length: 1\r\nContent-Length: 2\r\n\r\n`, 400],
      [
        'a length and a coding',
        `POST / HTTP/1.1\r\n${host}Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n`,
        400,
      ],
      ['a bare CR', `GET / HTTP/1.1\r${host}\r\n`, 400],
      ['no HTTP at all', '\x16\x03\x01\x02\x00\x01\x00\n\n', 400],
      ['a coding', `POST / HTTP/1.1\r\n${host}Transfer-Encoding: chunked\r\n\r\n`, 501],
      ['another version', `GET / HTTP/2.0\r\n${host}\r\n`, 505],
      ['a body that is too long', `GET / HTTP/1.1\r\n${host}Content-Length: 1048577\r\n\r\n`, 413],
      ['a line that is too long', `GET /${'x'.repeat(9000)}`, 431],
      ['a head that is a byte too long', `GET / HTTP/1.1\r\n${host}X: ${'y'.repeat(8193 - 32)}\r\n\r\n`, 431],
      ['too many fields', `GET / HTTP/1.1\r\n${'X-Long: 1\r\n'.repeat(2000)}`, 431],
    ])('%s', async (_name, text, status) => {
      const answers = splitAnswers(await raw(text));
      expect(answers.map((answer) => answer.status)).toEqual([status]);
      expect(answers[0].head).toContain('\r\nConnection: close\r\n');
    });

    test.each([
      ['lines end with LF', 'GET / HTTP/1.1\nHost: a\n\n', 200],
      ['the target is absolute', `GET http://a/stats HTTP/1.1\r\n${host}\r\n`, 200],
      ['the target is absolute, without a path', `GET http://a?b HTTP/1.1\r\n${host}\r\n`, 200],
      ['the head is as long as may be', `GET / HTTP/1.1\r\n${host}X: ${'y'.repeat(8192 - 32)}\r\n\r\n`, 200],
      ['the same length twice', `GET / HTTP/1.1\r\n${host}Content-Length: 0\r\nContent-Length: 0\r\n\r\n`, 200],
    ])('none of them: %s', async (_name, text, status) => {
      expect(await statusOf(text)).toBe(status);
    });

    test('a client that ends within a request gets the end', async () => {
      expect(await raw('GET / HTTP/1.1\r\nHost: a')).toBe('');
    });

    test('whatever comes, the next client is served', async () => {
      const random = new Random(80);
      const words = ['GET', ' ', '/', 'HTTP/1.1', '\r\n', '\n', ':', 'Host', 'Content-Length', '9', '\0', '\xff', ','];
      for (let round = 0; round < 200; round++) {
        const text = Array.from({ length: random.between(1, 400) }, () => random.pick(words)).join('');
        expect(await raw(text)).toMatch(/^(HTTP\/1\.1 |$)/);
      }
      expect((await ask('/')).status).toBe(200);
    }, 60_000);
  });

  describeWithTool('with curl, through a TCP port', 'curl', 'curl', () => {
    const run = promisify(execFile);
    // What any bridge does: each connection of the host gets one of the guest.
    const bridge = createServer((socket) => {
      socket.on('error', () => undefined);
      vm.vsock.connect(HTTP).then(
        (stream) => {
          stream.on('error', () => undefined);
          socket.pipe(stream).pipe(socket);
          socket.on('close', () => stream.destroy());
        },
        () => socket.destroy(),
      );
    });
    let url = '';
    beforeAll(async () => {
      bridge.listen(0, '127.0.0.1');
      await once(bridge, 'listening');
      url = `http://127.0.0.1:${(bridge.address() as AddressInfo).port}`;
    });
    afterAll(async () => {
      bridge.close();
      await once(bridge, 'close');
    });
    const curl = async (...args: string[]): Promise<string> => {
      const { stdout } = await run(
        'curl',
        ['--silent', '--show-error', '--noproxy', '*', '--max-time', '20', ...args],
        {
          maxBuffer: 64 * MIB,
        },
      );
      return stdout;
    };

    test('pages, and several on one connection', async () => {
      const out = ['--output', '/dev/null', '--write-out', '%{http_code} %{size_download} %{num_connects}\n'];
      const printed = await curl(...out, `${url}/bytes/20000000`, '--next', ...out, `${url}/nowhere`);
      expect(printed).toBe('200 20000000 1\n404 14 0\n');
      expect(await curl(url)).toContain('Hello from a microVM');
      expect(await curl('--head', url)).toMatch(/^HTTP\/1\.1 200 OK\r\n[^]*\r\n\r\n$/);
    });

    test('a body that waits for 100 Continue is refused at once', async () => {
      const body = [
        '--data-binary',
        'x'.repeat(100_000),
        '--header',
        'Expect: 100-continue',
        '--expect100-timeout',
        '15',
      ];
      const started = performance.now();
      expect(await curl('--output', '/dev/null', '--write-out', '%{http_code}', ...body, url)).toBe('405');
      // Not after curl's patience.
      expect(performance.now() - started).toBeLessThan(14_000);
    });
  });
});

interface Answer {
  readonly status: number | undefined;
  readonly headers: IncomingMessage['headers'];
  readonly body: Buffer;
}

async function send(agent: Agent, path: string, options: RequestOptions = {}): Promise<IncomingMessage> {
  const asked = request({ agent, path, host: 'guest', ...options });
  asked.end();
  const [answer] = (await once(asked, 'response')) as [IncomingMessage];
  return answer;
}

async function readAnswer(answer: IncomingMessage): Promise<Answer> {
  const pieces: Buffer[] = [];
  for await (const piece of answer) pieces.push(piece as Buffer);
  return { status: answer.statusCode, headers: answer.headers, body: Buffer.concat(pieces) };
}

async function readAll(stream: VsockStream): Promise<string> {
  const pieces: Buffer[] = [];
  for await (const piece of stream) pieces.push(piece as Buffer);
  return Buffer.concat(pieces).toString('latin1');
}

async function firstLine(stream: VsockStream): Promise<string> {
  const [piece] = (await once(stream, 'data')) as [Buffer];
  return piece.toString('latin1').split('\r\n', 1)[0];
}

interface RawAnswer {
  readonly status: number;
  readonly head: string;
  readonly body: string;
}

/** The answers of a connection, by their lengths; fails when something is left over. */
function splitAnswers(text: string): RawAnswer[] {
  const answers: RawAnswer[] = [];
  for (let at = 0; at < text.length;) {
    const end = text.indexOf('\r\n\r\n', at) + 4;
    const head = text.slice(at, end);
    const length = Number(/\r\nContent-Length: (\d+)\r\n/.exec(head)?.[1]);
    if (end < 4 || !(end + length <= text.length)) throw new Error(`no answer at ${at} of ${text.length}: ${head}`);
    answers.push({ status: Number(head.slice(9, 12)), head, body: text.slice(end, end + length) });
    at = end + length;
  }
  return answers;
}

function pattern(length: number): Buffer {
  return Buffer.alloc(length, PATTERN);
}
