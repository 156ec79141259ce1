// Where events are written: files, pipes whose reader is slow, gone or not there yet, descriptors that cannot be used.

import { spawnSync } from 'node:child_process';
import { closeSync, constants, mkdtempSync, openSync, readFileSync, readSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { BACKLOG_LIMIT, EventMonitor } from '../../src/cli/event-monitor.js';
import { tellEvent } from '../../src/cli/vm-events.js';
import { openDescriptors } from '../support/process-state.js';

const CONNECTION = {
  type: 'stream',
  guestPort: 7,
  peerCid: 2,
  peerPort: 0x4000_0000,
  state: 'established',
  rxBytes: 1,
  txBytes: 2,
  rxCredit: 3,
  rxStalled: false,
  txWaiting: 0,
} as const;

interface Line {
  readonly timestamp: { readonly secs: number; readonly nanos: number };
  readonly source: string;
  readonly event: string;
  readonly properties: Record<string, string> | null;
}

let folder = '';
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'tsvmm-event-monitor-'));
});
afterAll(() => {
  rmSync(folder, { recursive: true });
});

function open(target: Parameters<typeof EventMonitor.open>[0]) {
  const warnings: string[] = [];
  return { warnings, monitor: EventMonitor.open(target, (message) => warnings.push(message)) };
}

function parse(text: string): Line[] {
  expect(text.endsWith('\n')).toBe(true);
  return text
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as Line);
}

function fifo(name: string): string {
  const path = join(folder, name);
  expect(spawnSync('mkfifo', [path]).status).toBe(0);
  return path;
}

/** What a reader of the FIFO gets at the moment. */
function drain(reader: number): string {
  const bytes = Buffer.alloc(1 << 16);
  let text = '';
  for (;;) {
    try {
      const count = readSync(reader, bytes);
      if (count === 0) return text;
      text += bytes.toString('utf8', 0, count);
    } catch {
      return text;
    }
  }
}

const reading = (path: string): number => openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);

/** Enough turns of the event loop for a descriptor to be found ready. */
const turns = async (): Promise<void> => {
  for (let turn = 0; turn < 5; turn++) await new Promise((resolve) => setTimeout(resolve, 2));
};

describe('an event monitor', () => {
  test('writes events to a file, one a line, in the shape of Cloud Hypervisor, and keeps what was there', async () => {
    const path = join(folder, 'file');
    writeFileSync(path, '');
    const before = openDescriptors();
    for (const round of [1, 2]) {
      const { monitor, warnings } = open({ path });
      monitor.write('vmm', 'starting');
      monitor.write('vm', 'shutdown', { reason: `"${round}"\n` });
      const lines = parse(readFileSync(path, 'utf8'));
      await monitor.close();
      monitor.write('vm', 'late');
      expect(lines).toHaveLength(2 * round);
      const timestamp = { secs: 0, nanos: expect.any(Number) as unknown };
      expect(lines.slice(-2)).toEqual([
        { timestamp, source: 'vmm', event: 'starting', properties: null },
        { timestamp, source: 'vm', event: 'shutdown', properties: { reason: `"${round}"\n` } },
      ]);
      expect(warnings).toEqual([]);
    }
    expect(openDescriptors()).toBe(before);
  });

  test('keeps events for a reader of a FIFO that comes later', async () => {
    const path = fifo('late');
    const { monitor } = open({ path });
    monitor.write('vm', 'booting');
    const reader = reading(path);
    monitor.write('vm', 'booted');
    expect(parse(drain(reader)).map(({ event }) => event)).toEqual(['booting', 'booted']);
    await monitor.close();
    closeSync(reader);
  });

  test('a slow reader loses nothing', async () => {
    const path = fifo('slow');
    const { monitor, warnings } = open({ path });
    const reader = reading(path);
    const total = 5000;
    let text = '';
    for (let index = 0; index < total; index++) monitor.write('vm', 'paused', { index: String(index) });
    const closing = monitor.close();
    for (let quiet = 0; quiet < 3;) {
      const more = drain(reader);
      text += more;
      quiet = more === '' ? quiet + 1 : 0;
      await turns();
    }
    await closing;
    text += drain(reader);
    closeSync(reader);
    expect(parse(text).map(({ properties }) => Number(properties?.['index']))).toEqual([...Array(total).keys()]);
    expect(warnings).toEqual([]);
  });

  test('behind a reader that does not read, new events are dropped, which is said once and in the stream', async () => {
    const path = fifo('stuck');
    const { monitor, warnings } = open({ path });
    const reader = reading(path);
    const written = Math.ceil((BACKLOG_LIMIT + 200_000) / 90);
    for (let index = 0; index < written; index++) monitor.write('vm', 'paused', { index: String(index) });
    expect(warnings).toEqual([expect.stringContaining('new events are dropped')]);
    let text = '';
    for (let quiet = 0; quiet < 3;) {
      const more = drain(reader);
      text += more;
      quiet = more === '' ? quiet + 1 : 0;
      await turns();
    }
    monitor.write('vm', 'resumed');
    text += drain(reader);
    const lines = parse(text);
    const kept = lines.filter(({ event }) => event === 'paused');
    expect(kept.map(({ properties }) => Number(properties?.['index']))).toEqual([...kept.keys()]);
    expect(lines.slice(kept.length)).toMatchObject([
      { source: 'vmm', event: 'events-dropped', properties: { count: String(written - kept.length) } },
      { source: 'vm', event: 'resumed' },
    ]);
    expect(warnings).toHaveLength(1);
    await monitor.close();
    closeSync(reader);
  });

  test('its end waits for a reader who never reads no longer than a second', async () => {
    const { monitor, warnings } = open({ path: fifo('never') });
    for (let index = 0; index < 2000; index++) monitor.write('vm', 'paused');
    await monitor.close();
    expect(warnings).toEqual([expect.stringContaining('were not read in time')]);
  });

  test('where nobody can read any more it gives up, and says so once', async () => {
    const full = open({ path: '/dev/full' });
    full.monitor.write('vm', 'booting');
    full.monitor.write('vm', 'booted');
    await full.monitor.close();
    expect(full.warnings).toEqual(['--event-monitor: events cannot be written any more (ENOSPC)']);
  });

  test('takes a descriptor that is open for writing', async () => {
    const path = join(folder, 'descriptor');
    const fd = openSync(path, 'w');
    const { monitor } = open({ fd });
    monitor.write('vm', 'booted');
    await monitor.close();
    expect(parse(readFileSync(path, 'utf8'))).toMatchObject([{ event: 'booted' }]);
    expect(() => {
      closeSync(fd);
    }).toThrow(/EBADF/);
  });

  test('refuses what cannot be written to', () => {
    const path = join(folder, 'read-only');
    writeFileSync(path, '');
    const fd = openSync(path, 'r');
    const directory = openSync(folder, 'r');
    try {
      expect(() => open({ fd })).toThrow(/^--event-monitor: descriptor \d+ is open for reading only\. Write path=FILE/);
      expect(() => open({ fd: directory })).toThrow(/is neither a file, a pipe nor a socket/);
      expect(() => open({ fd: 999_999 })).toThrow(/descriptor 999999 is not open/);
      expect(() => open({ path: join(folder, 'no', 'file') })).toThrow(/cannot be opened for writing \(ENOENT\)/);
      expect(() => open({ path: folder })).toThrow(/cannot be opened for writing \(EISDIR\)/);
    } finally {
      closeSync(fd);
      closeSync(directory);
    }
  });
});

describe("a VM's events", () => {
  test('have the names of Cloud Hypervisor where it has them', () => {
    expect(tellEvent({ type: 'booted' })).toEqual({ source: 'vm', event: 'booted', properties: null });
    expect(tellEvent({ type: 'panicked' })).toEqual({
      source: 'guest',
      event: 'panic',
      properties: { event: 'panic' },
    });
    expect(tellEvent({ type: 'crash-loaded' }).properties).toEqual({ event: 'crash_loaded' });
    expect(tellEvent({ type: 'watchdog-expired' })).toMatchObject({ source: 'watchdog', event: 'expired' });
    expect(tellEvent({ type: 'snapshotted', directory: '/s' }).properties).toEqual({ directory: '/s' });
  });

  test('say how a VM ended', () => {
    const properties = (exit: Parameters<typeof tellEvent>[0] & { type: 'shutdown' }): unknown =>
      tellEvent(exit).properties;
    expect(properties({ type: 'shutdown', exit: { reason: 'stopped' } })).toEqual({ reason: 'stopped' });
    expect(properties({ type: 'shutdown', exit: { reason: 'reset', panicked: true } })).toEqual({
      reason: 'reset',
      panicked: 'true',
    });
    expect(properties({ type: 'shutdown', exit: { reason: 'crash', report: 'rip' } })).toMatchObject({ report: 'rip' });
    expect(properties({ type: 'shutdown', exit: { reason: 'failure', error: new Error('why') } })).toMatchObject({
      error: 'why',
    });
  });

  test('tell of vsock connections by their ports, as text', () => {
    expect(tellEvent({ type: 'vsock-connected', connection: CONNECTION })).toEqual({
      source: 'vsock',
      event: 'connected',
      properties: { type: 'stream', guest_port: '7', peer_cid: '2', peer_port: '1073741824' },
    });
    expect(tellEvent({ type: 'vsock-disconnected', reason: 'finished', connection: CONNECTION })).toMatchObject({
      event: 'disconnected',
      properties: { reason: 'finished', to_guest_bytes: '1', from_guest_bytes: '2' },
    });
    expect(tellEvent({ type: 'vsock-missed', count: 3 }).properties).toEqual({ count: '3' });
  });
});
