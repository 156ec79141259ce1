// The command's log: winston, to stderr or to a file. Winston takes 30 ms to load, before which no guest would run, so
// it is loaded with the first line that is really written: a quiet start never does. Lines are written synchronously,
// so that the last ones before a crash are there.

import { closeSync, openSync, writeSync } from 'node:fs';
import { createRequire } from 'node:module';
import { Writable } from 'node:stream';
import type winston from 'winston';
import { ConfigError } from '../config/config-error.js';
import { errorCode } from '../config/error-code.js';
import { LogFilter, type LogLevel, type LogLevels } from './log-levels.js';

export const LOG_FORMATS = ['text', 'json'] as const;
/** `text`: time, level, component and message in a line; `json`: an object of these in a line. */
export type LogFormat = (typeof LOG_FORMATS)[number];

export type LogFunction = (level: LogLevel, component: string, message: string) => void;

export interface Log {
  readonly write: LogFunction;
  /** Whether lines of that level are written for any component. */
  reaches(level: LogLevel): boolean;
  /**
   * Opens the file by its name again, which rotation has given to a new one. If that fails the old one stays. Returns what
   * went wrong; without a file there is nothing to do.
   */
  reopen(): string | undefined;
  /** Closes the file. What is written later is dropped. */
  close(): void;
}

export interface LogOptions {
  /** How many -v were given. */
  readonly verbosity: number;
  /** Levels that override it. */
  readonly levels?: LogLevels | undefined;
  /** Appended to; stderr when absent. */
  readonly file?: string | undefined;
  readonly format?: LogFormat | undefined;
}

/** Where lines go: changed by `reopen`. */
interface Target {
  fd: number;
}

/** Opens the log; throws ConfigError when the file cannot be written. */
export function createLog({ verbosity, levels, file, format = 'text' }: LogOptions): Log {
  const filter = new LogFilter(verbosity, levels);
  const target = file === undefined ? undefined : { fd: openLog(file) };
  let logger: winston.Logger | undefined;
  let closed = false;
  return {
    write(level, component, message) {
      if (closed || !filter.passes(level, component)) return;
      try {
        logger ??= createLogger(format, target);
      } catch {
        // Out of descriptors, say: the line that tells of it must not be the one that is lost.
        const line = FORMATTERS[format](new Date().toISOString(), level, component, message);
        writePlainly(target?.fd ?? process.stderr.fd, `${line}\n`);
        return;
      }
      logger.log({ level, message, component });
    },
    reaches: (level) => filter.reaches(level),
    reopen() {
      if (closed || target === undefined || file === undefined) return undefined;
      let fd;
      try {
        fd = openSync(file, 'a');
      } catch (error) {
        const why = errorCode(error) ?? String(error);
        return `--log-file: ${JSON.stringify(file)} cannot be opened again (${why}); the log goes on in the old file`;
      }
      closeSync(target.fd);
      target.fd = fd;
      return undefined;
    },
    close() {
      if (closed) return;
      closed = true;
      logger?.close();
      if (target !== undefined) closeSync(target.fd);
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

/** A line without its end. The time is ISO 8601, in UTC, with milliseconds. */
type Formatter = (timestamp: string, level: string, component: string, message: string) => string;

const FORMATTERS: Readonly<Record<LogFormat, Formatter>> = {
  text: (timestamp, level, component, message) =>
    `${timestamp} ${level.toUpperCase().padEnd(5)} ${component}: ${message}`,
  json: (timestamp, level, component, message) => JSON.stringify({ timestamp, level, component, message }),
};

function createLogger(logFormat: LogFormat, target: Target | undefined): winston.Logger {
  const { createLogger: create, format, transports } = createRequire(import.meta.url)('winston') as typeof winston;
  const line = format.printf((info) => {
    const { timestamp, component, message } = info as { timestamp?: string; component?: string; message?: unknown };
    return FORMATTERS[logFormat](timestamp ?? '', info.level, component ?? '', String(message));
  });
  const stream = target === undefined ? process.stderr : fileStream(target);
  return create({
    // What is too much has been left out before.
    level: 'silly',
    format: format.combine(format.timestamp(), line),
    // eslint-disable-next-line @typescript-eslint/no-unsafe-class-instance-assignment -- winston's types say interface
    transports: [new transports.Stream({ stream, eol: '\n' })],
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
function fileStream(target: Target): Writable {
  return new Writable({
    decodeStrings: true,
    write(chunk: Buffer, _encoding, done) {
      writePlainly(target.fd, chunk);
      done();
    },
  });
}
