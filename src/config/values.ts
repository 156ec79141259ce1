// The kinds of value that options take: how each is read from text, and how help names it. Only syntax is judged here;
// whether a number is a sensible one is a rule (rules/), so that library users meet the same judgement.

import { GIB, KIB, MIB } from '../platform/units.js';
import { type Complaint, showValue } from './config-error.js';
import { nearest } from './nearest.js';
import { parseList, quoted, unquote } from './option-grammar.js';

/** Text that is not of the kind wanted. */
export class ValueError extends Error {
  override readonly name = 'ValueError';
  readonly complaint: Complaint;

  constructor(complaint: Complaint) {
    super(`${complaint.problem}. ${complaint.mend}`);
    this.complaint = complaint;
  }
}

export interface ValueKind<T> {
  /** How help shows a value of this kind: `PATH`, `on|off`. */
  readonly metavar: string;
  /** Reads `text`, quotes still on; throws ValueError. */
  readonly parse: (text: string) => T;
}

/** Any text. */
export function text(metavar = 'STRING'): ValueKind<string> {
  return { metavar, parse: unquote };
}

/** A path of a file; not empty. Whether it exists is a rule. */
export const path: ValueKind<string> = {
  metavar: 'PATH',
  parse: (given) => {
    const value = unquote(given);
    if (value === '')
      throw new ValueError({ code: 'MISSING_VALUE', problem: 'the path is empty', mend: 'Name a file.' });
    return value;
  },
};

/** A whole number, in decimal. Numbers too large to be exact are let through, for a rule to refuse as too large. */
export const integer: ValueKind<number> = {
  metavar: 'N',
  parse: (given) => {
    const value = unquote(given);
    if (!/^[-+]?[0-9]+$/.test(value)) {
      throw new ValueError({
        code: 'WRONG_TYPE',
        problem: `${showValue(value)} is not a whole number`,
        mend: 'Give it in decimal digits, without a unit.',
      });
    }
    return Number(value);
  },
};

/** An I/O port, in hexadecimal with its prefix: `0xe9`. Without the prefix 402 could be meant either way. */
export const port: ValueKind<number> = {
  metavar: 'PORT',
  parse: (given) => {
    const value = unquote(given);
    if (/^0x[0-9a-f]+$/i.test(value)) return Number(value);
    throw new ValueError({
      code: 'WRONG_TYPE',
      problem: `${showValue(value)} is not a port in hexadecimal`,
      mend: /^[0-9a-f]+$/i.test(value) ? `Write 0x${value.toLowerCase()}.` : 'Write it like 0xe9.',
    });
  },
};

/** Another VM: its context id and the path of its socket, `4:/tmp/b.vsock`. */
export const vsockPeer: ValueKind<{ cid: number; socket: string }> = {
  metavar: 'CID:PATH',
  parse: (given) => {
    const value = unquote(given);
    const match = /^([0-9]+):(.+)$/s.exec(value);
    if (match !== null) return { cid: Number(match[1]), socket: match[2] };
    throw new ValueError({
      code: 'WRONG_TYPE',
      problem: `${showValue(value)} is not a context id and a path with a colon between them`,
      mend: 'Write it like 4:/tmp/b.vsock.',
    });
  },
};

const SIZE_SUFFIXES: Readonly<Record<string, number | undefined>> = { '': 1, K: KIB, M: MIB, G: GIB, T: KIB * GIB };

/** A number of bytes, with an optional suffix K, M, G or T (powers of 1024). */
export const byteSize: ValueKind<number> = {
  metavar: 'SIZE',
  parse: (given) => {
    const value = unquote(given);
    const match = /^(-?[0-9]+)([KMGT]?)$/.exec(value);
    const unit = SIZE_SUFFIXES[match?.[2] ?? ''];
    if (match !== null && unit !== undefined) return Number(match[1]) * unit;
    const near = /^([0-9]+)\s*([kmgt])i?b?$/i.exec(value);
    throw new ValueError({
      code: 'WRONG_TYPE',
      problem: `${showValue(value)} is not a size`,
      mend: near
        ? `Write ${near[1]}${near[2].toUpperCase()}.`
        : 'Give a number of bytes, or a number with the suffix K, M, G or T, like 512M.',
    });
  },
};

/** `on` or `off` (also `true` or `false`). */
export const toggle: ValueKind<boolean> = {
  metavar: 'on|off',
  parse: (given) => {
    const value = unquote(given).toLowerCase();
    if (value === 'on' || value === 'true') return true;
    if (value === 'off' || value === 'false') return false;
    throw new ValueError({
      code: 'WRONG_TYPE',
      problem: `${showValue(given)} is neither on nor off`,
      mend: 'Write on or off.',
    });
  },
};

/** One of a few words, each standing for a value. */
export function choice<const T>(words: Readonly<Record<string, T>>): ValueKind<T> {
  const names = Object.keys(words);
  return {
    metavar: names.join('|'),
    parse: (given) => {
      const value = unquote(given);
      const found = Object.hasOwn(words, value) ? words[value] : undefined;
      if (found !== undefined) return found;
      const near = nearest(value, names);
      throw new ValueError({
        code: 'WRONG_TYPE',
        problem: `${showValue(value)} is not one of ${names.join(', ')}`,
        mend: near === undefined ? 'Use one of these.' : `Did you mean ${near}?`,
      });
    },
  };
}

/** `[a,b,c]`, each element of kind `element`. */
export function list<T>(element: ValueKind<T>): ValueKind<T[]> {
  return {
    metavar: `[${element.metavar},...]`,
    // parseList takes the quotes off; an element's own parser must not take off another layer.
    parse: (given) => parseList(given).map((item) => element.parse(quoted(item))),
  };
}
