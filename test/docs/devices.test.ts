// The table of docs/devices.md is the table of options: every option and key of Cloud Hypervisor's and of ours, with what
// the source says about it.

import { describe, expect, test } from '@jest/globals';
import { COMMAND_OPTIONS } from '../../src/cli/options.js';
import { CLOUD_HYPERVISOR_ONLY } from '../../src/config/unknown-option.js';
import { VM_OPTIONS } from '../../src/config/vm-options.js';
import { readDocument, tableRows } from './tables.js';

const document = readDocument('docs/devices.md');

/** `yes`: as in Cloud Hypervisor; `own`: only here; `no`: refused. */
type Here = 'yes' | 'own' | 'no';

interface Row {
  readonly option: string;
  readonly key: string;
  readonly here: string;
  readonly text: string;
}

const rows: Row[] = tableRows(document, 'option').map(([option = '', key = '', here = '', text = '']) => ({
  option: plain(option),
  key: plain(key),
  here,
  text,
}));

function plain(cell: string): string {
  return cell.replaceAll('`', '');
}

/** The rows that the source asks for, where "yes" also stands for "own", which it does not know of. */
function expectedRows(): Row[] {
  const row = (option: string, key: string, here: Here, text: string): Row => ({
    option: `--${option}`,
    key,
    here,
    // A full stop ends a message, not a cell.
    text: text.replace(/\.$/, ''),
  });
  const ours = VM_OPTIONS.flatMap(({ name, help, keys, notSupported }) => [
    row(name, '', 'yes', help),
    ...keys.map((key) => row(name, key.name, 'yes', key.help)),
    ...Object.entries(notSupported).map(([key, reason]) => row(name, key, 'no', reason)),
  ]);
  const command = COMMAND_OPTIONS.flatMap(({ name, help, keys = [], notSupported = {} }) => [
    row(name, '', 'yes', help),
    ...keys.map((key) => row(name, key.name, 'yes', key.help)),
    ...Object.entries(notSupported).map(([key, reason]) => row(name, key, 'no', reason)),
  ]);
  const refused = Object.entries(CLOUD_HYPERVISOR_ONLY).map(([name, reason]) => row(name, '', 'no', reason));
  return [...ours, ...command, ...refused];
}

describe('the table of docs/devices.md', () => {
  test('has every option and key, ours and those refused, in the words of the source', () => {
    expect(rows.map((row) => ({ ...row, here: row.here === 'own' ? 'yes' : row.here }))).toEqual(expectedRows());
  });

  test('says of each whether it is as in Cloud Hypervisor, only here, or refused', () => {
    expect(rows.filter(({ here }) => !['yes', 'own', 'no'].includes(here))).toEqual([]);
    expect(rows.filter(({ here }) => here === 'no').length).toBeGreaterThan(60);
  });
});

test('docs/devices.md has a section for every option that makes a device', () => {
  const headings = [...document.matchAll(/^## .*$/gm)].map(([heading]) => heading).join('\n');
  const devices = ['disk', 'pmem', 'net', 'vsock', 'rng', 'balloon', 'watchdog', 'pvpanic', 'serial', 'console'];
  expect(devices.filter((name) => !headings.includes(`\`--${name}\``))).toEqual([]);
});

test('every option that docs/devices.md names anywhere exists, here or in Cloud Hypervisor', () => {
  const known = [...VM_OPTIONS, ...COMMAND_OPTIONS].map(({ name }) => name).concat(Object.keys(CLOUD_HYPERVISOR_ONLY));
  const named = [...document.matchAll(/(?<=[\s`(])--([a-z][a-z-]*)/g)].map(([, name]) => name);
  expect(named.filter((name) => !known.includes(name))).toEqual([]);
});
