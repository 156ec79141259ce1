// The command's log: winston, to stderr or to a file. Winston takes 30 ms to load, before which no guest would run, so
// it is loaded with the first line that is really written: a quiet start never does. Lines are written synchronously,
// so that the last ones before a crash are there.

import { closeSync, openSync, writeSync } from 'node:fs';
import { createRequire } from 'node:module';
import { Writable } from 'node:stream';
import type winston from 'winston';
import { ConfigError } from '../config/config-error.js';
import { errorCode } from '../config/error-code.js';

/** In order of severity; `silly` is winston's name for everything. */
const LEVELS = ['error', 'warn', 'info', 'debug', 'silly'] as const;

export type LogLevel = (typeof LEVELS)[number];

/** The level without any -v, and one further for each. */
const QUIET = LEVELS.indexOf('warn');

export type LogFunction = (level: LogLevel, component: string, message: string) => void;

export interface Log {
  readonly write: LogFunction;
  /** Closes the file. What is written later is dropped. */
  close(): void;
}

export interface LogOptions {
  /** How many -v were given. */
  readonly verbosity: number;
  /** Appended to; stderr when absent. */
  readonly file?: string | undefined;
}

/** The most verbose level that is written at `verbosity`. */
export function levelFor(verbosity: number): LogLevel {
  return LEVELS[Math.min(QUIET + verbosity, LEVELS.length - 1)];
}

/** Opens the log; throws ConfigError when the file cannot be written. */
export function createLog({ verbosity, file }: LogOptions): Log {
  const level = levelFor(verbosity);
  const threshold = LEVELS.indexOf(level);
  const fd = file === undefined ? undefined : openLog(file);
  let logger: winston.Logger | undefined;
  let closed = false;
  return {
    write(lineLevel, component, message) {
      if (closed || LEVELS.indexOf(lineLevel) > threshold) return;
      try {
        logger ??= createLogger(level, fd);
      } catch {
        // Out of descriptors, say: the line that tells of it must not be the one that is lost.
        writePlainly(fd ?? process.stderr.fd, `${lineLevel.toUpperCase()} ${component}: ${message}\n`);
        return;
      }
      logger.log({ level: lineLevel, message, component });
    },
    close() {
      if (closed) return;
      closed = true;
      logger?.close();
      if (fd !== undefined) closeSync(fd);
    },
  };
}

function openLog(file: string): number {
  try {
    return openSync(file, 'a');
  } catch (error) {
    throw new ConfigError(
      { option: '--log-file', value: file, label: '--log-file' },
      {
        code: 'UNUSABLE_FILE',
        problem: `${JSON.stringify(file)} cannot be opened for appending (${errorCode(error) ?? String(error)})`,
        mend: 'Name a file in a directory where you may create files.',
      },
      { cause: error },
    );
  }
}

function createLogger(level: LogLevel, fd: number | undefined): winston.Logger {
  const { createLogger: create, format, transports } = createRequire(import.meta.url)('winston') as typeof winston;
  const line = format.printf((info) => {
    const { timestamp, component, message } = info as { timestamp?: string; component?: string; message?: unknown };
    return `${timestamp ?? ''} ${info.level.toUpperCase().padEnd(5)} ${component ?? ''}: ${String(message)}`;
  });
  return create({
    level,
    format: format.combine(format.timestamp(), line),
    // eslint-disable-next-line @typescript-eslint/no-unsafe-class-instance-assignment -- winston's types say interface
    transports: [new transports.Stream({ stream: fd === undefined ? process.stderr : fileStream(fd), eol: '\n' })],
  });
}

function writePlainly(fd: number, line: string | Buffer): void {
  try {
    writeSync(fd, typeof line === 'string' ? Buffer.from(line) : line);
  } catch {
    // There is nowhere left to say so.
  }
}

/** A stream that has written when it says so. A log that cannot be written (a full disk) is no reason to end the VM. */
function fileStream(fd: number): Writable {
  return new Writable({
    decodeStrings: true,
    write(chunk: Buffer, _encoding, done) {
      writePlainly(fd, chunk);
      done();
    },
  });
}
