// --event-monitor: what happens to the VM, written to a file, a FIFO or an inherited descriptor as JSON, an event a line.
// Main thread; loaded only when it is asked for.
//
// The shape is Cloud Hypervisor's event monitor (its event_monitor crate), which writes each event over several lines:
//
//   {"timestamp":{"secs":0,"nanos":123456789},"source":"vm","event":"booted","properties":null}
//
// The timestamp counts from when the monitor was opened; properties are text, or null where there are none. The VM never
// waits for a reader. What a pipe or socket does not take is kept until it does, up to BACKLOG_LIMIT; beyond that new
// events are dropped, which is said once in the log, and as an event `vmm` `events-dropped` as soon as there is room.

import { closeSync, constants, fstatSync, openSync, statSync, writeSync } from 'node:fs';
import { errorCode } from '../config/error-code.js';
import { mistake, type EventTarget } from './event-target.js';
import { FdWatcher } from '../platform/fd-watcher.js';
import { libc, O_NONBLOCK } from '../platform/libc.js';
import type { Fd } from '../platform/units.js';

/** Thousands of events. */
export const BACKLOG_LIMIT = 1024 * 1024;
/** How long the end of the process waits for a reader who is behind. */
const CLOSE_LIMIT_MS = 1000;

const F_GETFL = 3;
const F_SETFL = 4;
const ACCESS_MODE_MASK = 3;

export type Properties = Readonly<Record<string, string>>;

/** What is told in the log. */
export type Warn = (message: string) => void;

export class EventMonitor {
  private readonly fd: number;
  private readonly warn: Warn;
  private readonly begin = process.hrtime.bigint();
  /** Lines that were not taken yet; the first may be what is left of one. */
  private backlog: Buffer[] = [];
  private backlogBytes = 0;
  private watcher: FdWatcher | undefined;
  private dropped = 0;
  private warned = false;
  /** Set for good when nobody can read any more. */
  private broken = false;
  /** Called when the backlog is empty. */
  private drained: (() => void) | undefined;

  private constructor(fd: number, warn: Warn) {
    this.fd = fd;
    this.warn = warn;
  }

  /** Throws ConfigError. */
  static open(target: EventTarget, warn: Warn): EventMonitor {
    return new EventMonitor('path' in target ? openPath(target.path) : takeDescriptor(target.fd), warn);
  }

  write(source: string, event: string, properties: Properties | null = null): void {
    if (this.broken) return;
    const line = this.lineOf(source, event, properties);
    if (this.dropped > 0 || this.backlogBytes + line.length > BACKLOG_LIMIT) {
      this.drop();
      return;
    }
    this.push(line);
  }

  /** Waits a little for a reader who is behind, then closes the descriptor. */
  async close(): Promise<void> {
    if (!this.broken && this.backlog.length > 0) {
      let limit: NodeJS.Timeout | undefined;
      await new Promise<void>((resolve) => {
        this.drained = resolve;
        limit = setTimeout(resolve, CLOSE_LIMIT_MS);
      });
      clearTimeout(limit);
      if (this.backlog.length > 0) this.warn('--event-monitor: the last events were not read in time');
    }
    this.watcher?.close();
    if (this.fd > 2) closeSync(this.fd);
    this.broken = true;
  }

  private lineOf(source: string, event: string, properties: Properties | null): Buffer {
    const elapsed = process.hrtime.bigint() - this.begin;
    const timestamp = { secs: Number(elapsed / 1_000_000_000n), nanos: Number(elapsed % 1_000_000_000n) };
    return Buffer.from(`${JSON.stringify({ timestamp, source, event, properties })}\n`);
  }

  private drop(): void {
    this.dropped++;
    if (this.warned) return;
    this.warned = true;
    this.warn('--event-monitor: the reader is far behind; new events are dropped until it has caught up');
  }

  private push(line: Buffer): void {
    this.backlog.push(line);
    this.backlogBytes += line.length;
    // Behind others, it waits its turn.
    if (this.watcher === undefined) this.flush();
  }

  private readonly flush = (): void => {
    while (this.backlog.length > 0) {
      const [line] = this.backlog;
      let written;
      try {
        written = writeSync(this.fd, line);
      } catch (error) {
        const code = errorCode(error);
        if (code === 'EAGAIN') this.watcher ??= new FdWatcher(this.fd as Fd, { writable: true }, this.flush);
        else this.giveUp(code ?? String(error));
        return;
      }
      this.backlogBytes -= written;
      if (written === line.length) this.backlog.shift();
      else this.backlog[0] = line.subarray(written);
    }
    this.watcher?.close();
    this.watcher = undefined;
    if (this.dropped > 0) {
      const count = String(this.dropped);
      this.dropped = 0;
      this.push(this.lineOf('vmm', 'events-dropped', { count }));
      return;
    }
    this.drained?.();
  };

  private giveUp(code: string): void {
    this.broken = true;
    this.backlog = [];
    this.watcher?.close();
    this.watcher = undefined;
    this.warn(`--event-monitor: events cannot be written any more (${code})`);
    this.drained?.();
  }
}

/** A file is appended to and created if need be. A FIFO keeps what is written until its reader comes. */
function openPath(path: string): number {
  const { O_WRONLY, O_RDWR, O_CREAT, O_APPEND, O_NONBLOCK: NONBLOCK } = constants;
  try {
    // With a reading end of its own a FIFO can be opened, and stay open, while there is no reader.
    const isFifo = statSync(path, { throwIfNoEntry: false })?.isFIFO() === true;
    return openSync(path, (isFifo ? O_RDWR : O_WRONLY | O_CREAT | O_APPEND) | NONBLOCK);
  } catch (error) {
    const why = errorCode(error) ?? String(error);
    throw mistake(path, 'UNUSABLE_FILE', `${JSON.stringify(path)} cannot be opened for writing (${why})`, error);
  }
}

/** As Cloud Hypervisor does, makes the descriptor non-blocking, for everybody who has it. */
function takeDescriptor(fd: number): number {
  const unusable = (why: string): Error => mistake(`fd=${fd}`, 'UNUSABLE_FILE', `descriptor ${fd} ${why}`);
  let stat;
  try {
    stat = fstatSync(fd);
  } catch {
    throw unusable('is not open');
  }
  // Node's own descriptors are of other kinds, most of them.
  if (!stat.isFile() && !stat.isFIFO() && !stat.isSocket() && !stat.isCharacterDevice()) {
    throw unusable('is neither a file, a pipe nor a socket');
  }
  const flags = libc.fcntl(fd, F_GETFL, 0);
  if ((flags & ACCESS_MODE_MASK) === constants.O_RDONLY) throw unusable('is open for reading only');
  if (!stat.isFile()) libc.fcntl(fd, F_SETFL, flags | O_NONBLOCK);
  return fd;
}
