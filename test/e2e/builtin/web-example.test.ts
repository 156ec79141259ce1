// examples/web as a user runs it: its server with plain HTTP, and its page in a real browser.

import { once } from 'node:events';
import { request, type IncomingMessage, type RequestOptions } from 'node:http';
import { fileURLToPath } from 'node:url';
import { afterAll, afterEach, beforeAll, expect, jest, test } from '@jest/globals';
import type { FrameLocator, Page } from 'playwright-core';
import type { Status, Transfer } from '../../../examples/web/messages.js';
import { MIB } from '../../../src/platform/units.js';
import type { VsockCounterSnapshot } from '../../../src/index.js';
import { describeBrowser, TestBrowser } from '../../support/browser.js';
import { Command, endCommands } from '../../support/command.js';
import { describeKvm } from '../../support/kvm.js';
import { eventually } from '../../support/process-state.js';

const MAIN = fileURLToPath(new URL('../../../examples/web/main.js', import.meta.url));
/** A page that is slow is no failure; one that never comes is. */
const PATIENCE_MS = 20_000;

jest.setTimeout(60_000);

/** The example as a process, with the address that it has printed. */
class WebExample {
  readonly command: Command;
  readonly url: string;

  private constructor(command: Command, url: string) {
    this.command = command;
    this.url = url;
  }

  static async start(): Promise<WebExample> {
    const command = new Command(process.execPath, [MAIN]);
    await command.waitFor('stdout', /the page is at http:\S+;/);
    const [, url] = /at (http:\S+);/.exec(command.output.stdout) ?? [];
    return new WebExample(command, url);
  }

  /** A request with just these header fields; `path` as it is. */
  async ask(path: string, { body, ...options }: RequestOptions & { body?: string } = {}): Promise<Answer> {
    const { hostname, port } = new URL(this.url);
    const asked = request({ hostname, port, path, agent: false, ...options });
    asked.end(body);
    const [answer] = (await once(asked, 'response')) as [IncomingMessage];
    const pieces: Buffer[] = [];
    for await (const piece of answer) pieces.push(piece as Buffer);
    return { status: answer.statusCode, headers: answer.headers, body: Buffer.concat(pieces).toString() };
  }

  async post(path: string, body: unknown = {}, headers: Record<string, string> = {}): Promise<Answer> {
    const fields = { 'content-type': 'application/json', ...headers };
    return this.ask(path, { method: 'POST', headers: fields, body: JSON.stringify(body) });
  }

  async status(): Promise<Status & { counters: VsockCounterSnapshot }> {
    const { body } = await this.ask('/api/status');
    return JSON.parse(body) as Status & { counters: VsockCounterSnapshot };
  }

  /** Ctrl-C, and the end of the process. */
  async interrupt(): Promise<number | string | null> {
    this.command.kill('SIGINT');
    return this.command.status;
  }
}

interface Answer {
  readonly status: number | undefined;
  readonly headers: IncomingMessage['headers'];
  readonly body: string;
}

describeKvm('the web example: its server', () => {
  let example: WebExample;
  beforeAll(async () => {
    example = await WebExample.start();
  });
  afterAll(endCommands);

  test('serves the page with a policy that allows nothing from elsewhere', async () => {
    const { status, headers, body } = await example.ask('/');
    expect([status, headers['content-type']]).toEqual([200, 'text/html; charset=utf-8']);
    expect(headers['content-security-policy']).toMatch(/^default-src 'self';/);
    expect(body).toContain('<h1>A microVM, live</h1>');
    // Everything that the page names is there.
    const names = [...body.matchAll(/(?:src|href)="(\/[^"]+)"/g)].map(([, path]) => path);
    expect(names).toContain('/client/main.js');
    for (const name of names) expect([name, (await example.ask(name)).status]).toEqual([name, 200]);
  });

  test("the guest's page comes through, and whatever it sends is put in a sandbox", async () => {
    const { status, headers, body } = await example.ask('/guest/');
    expect(status).toBe(200);
    expect(body).toContain('<h1>Hello from a microVM</h1>');
    expect(headers['content-security-policy']).toMatch(/^sandbox; default-src 'none';/);
    expect(headers['server']).toBeUndefined();
    expect(JSON.parse((await example.ask('/guest/stats')).body)).toMatchObject({ guest: 'tsvmm guest', cid: 3 });
    expect((await example.ask('/guest/nowhere')).status).toBe(404);
    expect((await example.ask('/guest/', { method: 'HEAD' })).headers['content-length']).toBe(
      headers['content-length'],
    );
    expect((await example.ask('/guest')).headers.location).toBe('/guest/');
  });

  test('bodies of the guest are streamed: a reader that stops stops the guest', async () => {
    const { hostname, port } = new URL(example.url);
    const before = (await example.status()).counters.txBytes;
    const asked = request({ hostname, port, path: `/guest/bytes/${4096 * MIB}`, agent: false });
    asked.on('error', () => undefined);
    asked.end();
    const [answer] = (await once(asked, 'response')) as [IncomingMessage];
    await once(answer, 'readable');
    // What is on its way fills the buffers in between, and then nothing moves any more.
    let last = -1;
    let unmoved = 0;
    await eventually('the guest stops sending', async () => {
      const { txBytes } = (await example.status()).counters;
      unmoved = txBytes === last ? unmoved + 1 : 0;
      last = txBytes;
      return unmoved === 5;
    });
    expect(last - before).toBeLessThan(64 * MIB);
    answer.destroy();
    expect((await example.ask('/guest/bytes/100000')).body).toHaveLength(100_000);
  });

  test('a request in the name of another server is refused', async () => {
    for (const host of ['evil.example', 'evil.example:80', '127.0.0.1', '127.0.0.1:1']) {
      expect((await example.ask('/', { headers: { host } })).status).toBe(403);
    }
    const { port } = new URL(example.url);
    expect((await example.ask('/', { headers: { host: `localhost:${port}` } })).status).toBe(200);
  });

  test('what changes something is for its own page only', async () => {
    const refused = await example.post('/api/pause', {}, { origin: 'http://evil.example' });
    expect([refused.status, (await example.status()).state]).toEqual([403, 'running']);
    const form = { method: 'POST', headers: { 'content-type': 'text/plain' }, body: '{}' };
    expect((await example.ask('/api/pause', form)).status).toBe(415);
    expect((await example.ask('/api/pause')).status).toBe(405);
    const forwarded = { method: 'POST', headers: { origin: 'http://evil.example', 'content-length': 0 } };
    expect((await example.ask('/guest/', forwarded)).status).toBe(403);
  });

  test.each([
    ['/api/console', {}, 400, 'text: a string is needed'],
    ['/api/transfers', { kind: 'sideways', bytes: 1 }, 400, 'kind: one of'],
    ['/api/transfers', { kind: 'echo', bytes: 0 }, 400, 'bytes: a whole number'],
    ['/api/transfers', { kind: 'echo', bytes: 1e20 }, 400, 'bytes: a whole number'],
    ['/api/transfers', { kind: 'echo', bytes: '5' }, 400, 'bytes: a whole number'],
    ['/api/console', 'x', 400, 'the body has to be an object'],
    ['/api/console', { text: 'x'.repeat(20_000) }, 413, 'the body may have 16384 bytes'],
    ['/api/nothing', {}, 405, 'GET is the method'],
    ['/events', {}, 405, 'GET is the method'],
  ])('%s with a body that is wrong: %#', async (path, body, status, message) => {
    const answer = await example.post(path, body);
    expect([answer.status, answer.body]).toEqual([status, expect.stringContaining(message)]);
  });

  test.each(['/../package.json', '/client/../main.js', '/client/%2e%2e/main.js', '/constructor', '/package.json'])(
    '%s is not there',
    async (path) => {
      expect((await example.ask(path)).status).toBe(404);
    },
  );

  test.each(['from-guest', 'to-guest', 'echo'] as const)('a transfer %s moves what was asked for', async (kind) => {
    const bytes = 32 * MIB + 12_345;
    const before = (await example.status()).counters;
    const { id } = JSON.parse((await example.post('/api/transfers', { kind, bytes })).body) as { id: number };
    let transfer: Transfer | undefined;
    await eventually('the transfer ends', async () => {
      transfer = (await example.status()).transfers.find((each) => each.id === id);
      return transfer?.state !== 'running';
    });
    expect(transfer).toMatchObject({ kind, bytes, done: bytes, state: 'done' });
    const after = (await example.status()).counters;
    const least = (moves: boolean): number => (moves ? bytes : 0);
    expect(after.txBytes - before.txBytes).toBeGreaterThanOrEqual(least(kind !== 'to-guest'));
    expect(after.rxBytes - before.rxBytes).toBeGreaterThanOrEqual(least(kind !== 'from-guest'));
  });

  test('a transfer can be stopped, and there are only so many at once', async () => {
    const begin = (): Promise<Answer> => example.post('/api/transfers', { kind: 'echo', bytes: 2 ** 35 });
    const answers = await Promise.all([begin(), begin(), begin(), begin(), begin()]);
    expect(answers.map(({ status }) => status).sort()).toEqual([200, 200, 200, 200, 429]);
    for (const { id } of (await example.status()).transfers.filter(({ state }) => state === 'running')) {
      await example.post('/api/transfers/stop', { id });
    }
    await eventually('they stop', async () =>
      (await example.status()).transfers.every(({ state }) => state !== 'running'),
    );
  });

  test('a page of a paused VM says so at once', async () => {
    await example.post('/api/pause');
    expect(await example.ask('/guest/')).toMatchObject({ status: 503, body: 'the VM is paused\n' });
    await example.post('/api/resume');
    expect((await example.ask('/guest/')).status).toBe(200);
  });

  test('an event stream goes on where it was', async () => {
    const first = await readEvents(
      example,
      {},
      (text) => text.includes('event: console') && text.includes('event: samples'),
    );
    expect(first.map(({ event }) => event).slice(0, 2)).toEqual(['begin', 'status']);
    expect(JSON.parse(first[0].data)).toEqual({ afresh: true });
    const { id, data } = first.filter(({ event }) => event === 'console').at(-1) ?? { id: '', data: '' };
    const { to } = JSON.parse(data) as { to: number };
    await example.post('/api/console', { text: 'stats\r' });
    const second = await readEvents(example, { 'last-event-id': id }, (text) => text.includes('event: console'));
    expect(JSON.parse(second[0].data)).toEqual({ afresh: false });
    expect(JSON.parse(second.find(({ event }) => event === 'console')?.data ?? '')).toMatchObject({ from: to });
    const other = await readEvents(example, { 'last-event-id': 'another/0/0' }, (text) =>
      text.includes('event: console'),
    );
    expect(JSON.parse(other[0].data)).toEqual({ afresh: true });
  });

  test('Ctrl-C ends it, whoever listens', async () => {
    const { hostname, port } = new URL(example.url);
    const listening = request({ hostname, port, path: '/events', agent: false });
    listening.on('error', () => undefined);
    listening.end();
    const [answer] = (await once(listening, 'response')) as [IncomingMessage];
    answer.on('error', () => undefined);
    answer.resume();
    expect(await example.interrupt()).toBe(130);
    expect([example.command.output.stderr, example.command.hasGroup()]).toEqual(['', false]);
  });

  test('a port that is taken is named', async () => {
    const one = await WebExample.start();
    const { port } = new URL(one.url);
    const two = new Command(process.execPath, [MAIN, '--port', port]);
    expect(await two.status).toBe(2);
    expect(two.output.stderr).toMatch(new RegExp(`^--port: ${port} cannot be had .*EADDRINUSE`));
    expect(await one.interrupt()).toBe(130);
  });
});

/** For the browser: counts pixels of the canvas that have the colour of PROPERTY, or nearly, well above the axis. */
const COUNT_PIXELS = `
  (() => {
    const canvas = document.querySelector('canvas');
    const wanted = getComputedStyle(canvas).getPropertyValue('PROPERTY').match(/\\d+/g).map(Number);
    const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height * 0.75);
    let count = 0;
    for (let at = 0; at < data.length; at += 4) {
      if (data[at + 3] > 200 && wanted.every((value, index) => Math.abs(value - data[at + index]) < 16)) count++;
    }
    return count;
  })()`;

interface ServerSentEvent {
  readonly id: string;
  readonly event: string;
  readonly data: string;
}

/** The events of a new stream until `enough` has come. */
async function readEvents(
  example: WebExample,
  headers: Record<string, string>,
  enough: (text: string) => boolean,
): Promise<ServerSentEvent[]> {
  const { hostname, port } = new URL(example.url);
  const asked = request({ hostname, port, path: '/events', headers, agent: false });
  asked.on('error', () => undefined);
  asked.end();
  const [answer] = (await once(asked, 'response')) as [IncomingMessage];
  let text = '';
  for await (const piece of answer.setEncoding('utf8')) {
    text += String(piece);
    if (text.endsWith('\n\n') && enough(text)) break;
  }
  const field = (block: string, name: string): string => new RegExp(`^${name}: (.*)$`, 'm').exec(block)?.[1] ?? '';
  return text
    .split('\n\n')
    .map((block) => ({ id: field(block, 'id'), event: field(block, 'event'), data: field(block, 'data') }))
    .filter(({ event }) => event !== '');
}

describeKvm('the web example: its page', () => {
  describeBrowser('in Chromium', () => {
    let example: WebExample;
    let browser: TestBrowser;
    let page: Page;
    let guestPage: FrameLocator;

    beforeAll(async () => {
      [example, browser] = await Promise.all([WebExample.start(), TestBrowser.launch()]);
      ({ page } = browser);
      page.setDefaultTimeout(PATIENCE_MS);
      guestPage = page.frameLocator('#guest-page');
      await page.goto(example.url);
    }, 90_000);
    afterAll(async () => {
      await browser.close();
      await endCommands();
    });
    // A failure that the page itself has told of is found there first. What it was told on purpose is not a complaint.
    afterEach(() => {
      expect(browser.complaints.splice(0)).toEqual([]);
    });

    const consoleText = (): Promise<string> => page.locator('#console').innerText();
    const seen = (text: string): Promise<void> => page.locator('#console').getByText(text).first().waitFor();

    async function type(text: string): Promise<void> {
      await page.fill('#typed', text);
      await page.keyboard.press('Enter');
    }

    async function bytesShown(id: string): Promise<number> {
      return Number(await page.locator(`#${id}`).getAttribute('value'));
    }

    /** How many pixels of the plot have about the colour that its style sheet names. */
    const pixelsOf = (property: string): Promise<number> =>
      page.evaluate<number>(COUNT_PIXELS.replace('PROPERTY', property));

    /** Whether either line rises: which one is the higher depends on how fast the transfers were. */
    const drawn = async (): Promise<boolean> => (await pixelsOf('--from-guest')) + (await pixelsOf('--to-guest')) > 50;

    test("the guest's own page is rendered in its frame", async () => {
      expect(await guestPage.locator('h1').innerText()).toBe('Hello from a microVM');
      expect(await guestPage.locator('dl').innerText()).toMatch(/Memory\s+128 MiB/);
      // Its links work in there.
      await guestPage.getByRole('link', { name: 'The same as JSON' }).click();
      await guestPage.getByText('"guest":"tsvmm guest"').waitFor();
      await page.getByRole('button', { name: 'Reload' }).click();
      await guestPage.locator('h1').waitFor();
    });

    test('the console shows what was printed, and takes what is typed', async () => {
      await seen('tsvmm guest 0.1.0, 128 MiB');
      await seen('type help');
      await type('help');
      await seen('what the services did');
      expect(await consoleText()).toMatch(/> help\n/);
      await page.getByText('Running').waitFor();
    });

    test('whatever is printed is shown as text, and does nothing', async () => {
      for (const text of [
        '<script>window.hacked = 1</script>',
        '<img src=x onerror="window.hacked = 2">',
        '</div><iframe src="javascript:parent.hacked = 3"></iframe>',
        '&lt;b&gt;&#x41;',
      ]) {
        await type(text);
        await seen(text);
      }
      // The guest has printed each of them itself, as the echo of what was typed.
      await seen('unknown command; type help');
      expect(await page.locator('#console').locator(':not(div)').count()).toBe(0);
      expect(await page.locator('iframe').count()).toBe(1);
      expect(await page.evaluate("'hacked' in globalThis")).toBe(false);
    });

    test('a transfer moves the plot, and the numbers are those of the server', async () => {
      const before = await bytesShown('from-total');
      await page.selectOption('#amount', '67108864');
      await page.getByRole('button', { name: 'From guest' }).click();
      await page.locator('#transfers li[data-state=done]').waitFor();
      await eventually('the page has them all', async () => (await bytesShown('from-total')) >= before + 64 * MIB);
      // So much that requests and answers are next to nothing: only one of the two lines rises.
      await eventually('they are drawn', async () => {
        return (await pixelsOf('--from-guest')) > 50 && (await pixelsOf('--to-guest')) === 0;
      });
      await page.getByRole('button', { name: 'To guest' }).click();
      await page.locator('#transfers li[data-state=done]').nth(1).waitFor();
      await eventually('the other way, too', async () => (await pixelsOf('--to-guest')) > 50);
      // With nothing under way, the last sample says what the device has counted.
      const { counters } = await example.status();
      const shown = async (): Promise<number[]> => [await bytesShown('from-total'), await bytesShown('to-total')];
      await eventually('the page has the totals of the server', async () => {
        const [from, to] = await shown();
        return from === counters.txBytes && to === counters.rxBytes;
      });
      expect(Number(await page.locator('#connections').innerText())).toBeGreaterThan(0);
    });

    test('pause and resume are shown, and what was typed meanwhile comes afterwards', async () => {
      await page.getByRole('button', { name: 'Pause' }).click();
      await page.locator('#state[data-state=paused]').waitFor();
      expect((await example.status()).state).toBe('paused');
      expect(await page.locator('#notice').innerText()).toContain('The VM is paused');
      await type('typed while paused');
      await page.getByRole('button', { name: 'Resume' }).click();
      await page.locator('#state[data-state=running]').waitFor();
      expect((await example.status()).state).toBe('running');
      await seen('typed while paused');
      await page.locator('#notice').waitFor({ state: 'hidden' });
    });

    test('a reload keeps what the console has printed', async () => {
      const before = await consoleText();
      expect(before).toContain('tsvmm guest 0.1.0, 128 MiB');
      await page.reload();
      await seen('typed while paused');
      await eventually('all of it is there', async () => (await consoleText()) === before);
      // The plot has its past again, too.
      await eventually('the plot is drawn again', drawn);
    });

    test('it fits a narrow window, and works in the dark', async () => {
      const background = (): Promise<string> => page.evaluate('getComputedStyle(document.body).backgroundColor');
      const light = await background();
      await page.emulateMedia({ colorScheme: 'dark' });
      expect(await background()).not.toBe(light);
      await eventually('the plot takes the colours of the dark', drawn);
      await page.setViewportSize({ width: 380, height: 900 });
      expect(await page.evaluate('document.documentElement.scrollWidth')).toBeLessThanOrEqual(380);
      await page.setViewportSize({ width: 1280, height: 1400 });
      await page.emulateMedia({ colorScheme: 'light' });
    });

    test('when the VM has ended, the page says how', async () => {
      await type('poweroff');
      await page.locator('#state[data-state=ended]').waitFor();
      expect(await page.locator('#notice').innerText()).toBe('The VM has ended: the guest has shut down.');
      expect(await page.getByRole('button', { name: 'Pause' }).isDisabled()).toBe(true);
      expect(await consoleText()).toContain('> poweroff');
      await page.reload();
      await page.locator('#state[data-state=ended]').waitFor();
      await guestPage.getByText('the VM has ended').waitFor();
      await seen('type help');
      // The frame's answer is 502, which Chromium tells of.
      expect(browser.complaints.splice(0).join()).toMatch(/^Failed to load resource: .* 502 [^,]*\/guest\/:0\)$/);
    });

    test('when the server has gone, the page says so', async () => {
      expect(await example.interrupt()).toBe(130);
      await page.locator('#state[data-state=lost]').waitFor();
      expect(await page.locator('#notice').innerText()).toContain('The server does not answer');
      browser.complaints.splice(0);
    });

    test('nothing was asked of any other server', () => {
      const { origin } = new URL(example.url);
      const elsewhere = browser.requests.filter((url) => new URL(url).origin !== origin);
      expect(elsewhere).toEqual([]);
      expect(browser.requests.length).toBeGreaterThan(10);
    });
  });
});
