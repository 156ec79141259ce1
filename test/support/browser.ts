// A real browser for tests of web pages: Debian's Chromium without a window, driven by Playwright. Its profile and whatever
// else it writes are in a folder of its own, which goes with it; it can reach 127.0.0.1 and nothing else.

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { chromium, type BrowserContext, type Page } from 'playwright-core';
import { describeWithTool } from './tools.js';

const CHROMIUM = '/usr/bin/chromium';
const ARGUMENTS = [
  // Tests run as root in containers, where its sandbox does not work.
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
  '--no-proxy-server',
  '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1',
];
const LAUNCH_LIMIT_MS = 60_000;

/** `describe` for tests with a browser: skipped with a message where it is not installed, failed where nothing may be. */
export function describeBrowser(name: string, body: () => void): void {
  describeWithTool(name, CHROMIUM, 'chromium', body);
}

/** A browser that runs, with one page. `close` ends it and leaves nothing behind. */
export class TestBrowser {
  readonly page: Page;
  /** The address of every request that its pages made. */
  readonly requests: string[] = [];
  /** What its pages complained about, in the console or by an exception. */
  readonly complaints: string[] = [];
  private readonly context: BrowserContext;
  private readonly folder: string;

  private constructor(context: BrowserContext, page: Page, folder: string) {
    this.context = context;
    this.page = page;
    this.folder = folder;
    context.on('request', (request) => this.requests.push(request.url()));
    context.on('weberror', (error) => this.complaints.push(`exception: ${String(error.error())}`));
    context.on('console', (message) => {
      const { url, lineNumber } = message.location();
      if (message.type() === 'error') this.complaints.push(`${message.text()} (${url}:${lineNumber})`);
    });
  }

  static async launch(): Promise<TestBrowser> {
    const folder = mkdtempSync(join(tmpdir(), 'tsvmm-browser-'));
    try {
      const context = await chromium.launchPersistentContext(join(folder, 'profile'), {
        executablePath: CHROMIUM,
        headless: true,
        args: ARGUMENTS,
        viewport: { width: 1280, height: 1400 },
        timeout: LAUNCH_LIMIT_MS,
        env: { ...process.env, HOME: folder, TMPDIR: folder, XDG_CONFIG_HOME: folder, XDG_CACHE_HOME: folder },
      });
      const [page = await context.newPage()] = context.pages();
      return new TestBrowser(context, page, folder);
    } catch (error) {
      rmSync(folder, { recursive: true, force: true });
      throw error;
    }
  }

  async close(): Promise<void> {
    try {
      await this.context.close();
    } finally {
      // Its last processes may still write for a moment.
      rmSync(this.folder, { recursive: true, force: true, maxRetries: 20, retryDelay: 50 });
    }
  }
}
