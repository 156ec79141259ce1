// How much of the log is written: a level for everything, and others for components.
//
//   --log-level info,vsock=debug,vcpu=warn,vcpu0=silly
//
// A component is what stands before the colon of a text log's lines: vmm, a device's id, vcpu0. A name without its number
// at the end stands for all of them (vcpu: every vCPU), unless the component has an entry of its own.

import { ConfigError, showValue } from '../config/config-error.js';
import { nearest } from '../config/nearest.js';
import { GrammarError, parseParts } from '../config/option-grammar.js';

/** In order of severity; `silly` is winston's name for everything. */
export const LEVELS = ['error', 'warn', 'info', 'debug', 'silly'] as const;

export type LogLevel = (typeof LEVELS)[number];

/** The level without any -v, and one further for each. */
const QUIET = LEVELS.indexOf('warn');

/** The most verbose level that is written at `verbosity`, the number of -v. */
export function levelFor(verbosity: number): LogLevel {
  return LEVELS[Math.min(QUIET + verbosity, LEVELS.length - 1)];
}

export interface LogLevels {
  /** Of components without a level of their own; undefined: as -v says. */
  readonly base: LogLevel | undefined;
  readonly components: ReadonlyMap<string, LogLevel>;
}

export const DEFAULT_LEVELS: LogLevels = { base: undefined, components: new Map() };

/** Reads the value of --log-level. Throws ConfigError. */
export function parseLogLevels(text: string): LogLevels {
  let base: LogLevel | undefined;
  const components = new Map<string, LogLevel>();
  for (const { key, value } of partsOf(text)) {
    if (value === undefined) {
      if (base !== undefined) throw mistake(text, 'DUPLICATE', 'two levels for everything', 'Give one, or name=level.');
      base = levelOf(text, key);
    } else {
      if (components.has(key)) throw mistake(text, 'DUPLICATE', `two levels for ${key}`, 'Give one.');
      components.set(key, levelOf(text, value));
    }
  }
  return { base, components };
}

function partsOf(text: string) {
  try {
    const parts = parseParts(text);
    if (parts.length > 0) return parts;
  } catch (error) {
    if (error instanceof GrammarError) throw mistake(text, 'SYNTAX', error.problem, error.mend);
    throw error;
  }
  throw mistake(text, 'MISSING_VALUE', 'no level given', `Use one of ${LEVELS.join(', ')}.`);
}

function levelOf(text: string, name: string): LogLevel {
  const level = LEVELS.find((each) => each === name);
  if (level !== undefined) return level;
  const near = nearest(name, LEVELS);
  const meant = near === undefined ? '' : `Did you mean ${near}? `;
  throw mistake(text, 'WRONG_TYPE', `${showValue(name)} is not a level`, `${meant}Levels are ${LEVELS.join(', ')}.`);
}

function mistake(value: string, code: ConfigError['code'], problem: string, mend: string): ConfigError {
  return new ConfigError({ option: '--log-level', value, label: '--log-level' }, { code, problem, mend });
}

/** Which lines are written. */
export class LogFilter {
  private readonly base: number;
  private readonly components: ReadonlyMap<string, LogLevel>;
  /** By component; there are some dozens. */
  private readonly thresholds = new Map<string, number>();

  constructor(verbosity: number, { base, components }: LogLevels = DEFAULT_LEVELS) {
    this.base = LEVELS.indexOf(base ?? levelFor(verbosity));
    this.components = components;
  }

  passes(level: LogLevel, component: string): boolean {
    let threshold = this.thresholds.get(component);
    if (threshold === undefined) {
      const own = this.components.get(component) ?? this.components.get(component.replace(/\d+$/, ''));
      threshold = own === undefined ? this.base : LEVELS.indexOf(own);
      this.thresholds.set(component, threshold);
    }
    return LEVELS.indexOf(level) <= threshold;
  }

  /** Whether a line of that level is written for any component. */
  reaches(level: LogLevel): boolean {
    const most = Math.max(this.base, ...[...this.components.values()].map((each) => LEVELS.indexOf(each)));
    return LEVELS.indexOf(level) <= most;
  }
}
