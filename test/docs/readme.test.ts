// What README.md says about the command is what the command does.

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { parseElfKernel } from '../../src/boot/elf.js';
import { BootFile } from '../../src/boot/file.js';
import { EXIT_CODES } from '../../src/cli/exit-codes.js';
import { RUN_OPTIONS } from '../../src/cli/guest-options.js';
import { COMMAND_OPTIONS, parseCommandLine, type Subcommand, SUBCOMMANDS } from '../../src/cli/options.js';
import { parseVmOptions } from '../../src/config/parse-options.js';
import { VM_OPTIONS } from '../../src/config/vm-options.js';
import { HostSocket } from '../../src/vmm/host-socket.js';
import { KVM_DEVICE, KvmSystem } from '../../src/vmm/kvm/system.js';
import { readDocument, tableRows } from './tables.js';

const readme = readDocument('README.md');
const options = tableRows(readme, 'option').map(([names, , initially]) => ({
  names: plain(names).split(', '),
  initially: plain(initially),
}));

function plain(cell: string): string {
  return cell.replaceAll('`', '');
}

describe('README.md', () => {
  test('its exit codes are the ones in the source', () => {
    expect(tableRows(readme, 'code').map(([code, meaning]) => [Number(code), meaning])).toEqual(EXIT_CODES);
  });

  test('its table of options has every option, and none that does not exist', () => {
    const named = options.flatMap(({ names }) => names).filter((name) => !/^-v+$/.test(name));
    const known = [...VM_OPTIONS, ...COMMAND_OPTIONS].map(({ name }) => `--${name}`).filter((name) => name !== '--v');
    expect([...named].sort()).toEqual([...known].sort());
  });

  test('the defaults in that table are those of the source', () => {
    for (const { name, defaultText } of VM_OPTIONS) {
      if (defaultText === undefined) continue;
      expect(options.find(({ names }) => names.includes(`--${name}`))).toMatchObject({ initially: defaultText });
    }
  });

  test('every option that it names anywhere exists', () => {
    const ofCommands = Object.values<Subcommand>(SUBCOMMANDS).flatMap(({ options = [] }) => options);
    const known = [...VM_OPTIONS, ...COMMAND_OPTIONS, ...RUN_OPTIONS, ...ofCommands].map(({ name }) => name);
    const named = [...readme.matchAll(/(?<=[\s`(])--([a-z][a-z-]*)/g)].map(([, name]) => name);
    expect(named.length).toBeGreaterThan(15);
    expect(named.filter((name) => !known.includes(name))).toEqual([]);
  });
});

describe('the first five mistakes of README.md', () => {
  const messages = tableRows(readme, 'what happened').map(([, message]) => plain(message));
  let directory = '';
  beforeAll(() => {
    directory = mkdtempSync(join(tmpdir(), 'tsvmm-readme-'));
  });
  afterAll(() => {
    rmSync(directory, { recursive: true });
  });

  /** The README's message that speaks of `example`, as it is for `actual`. What it leaves out (…) may be anything. */
  function pattern(example: string, actual: string): RegExp {
    const message = messages.find((text) => text.includes(example)) ?? `no message about ${example}`;
    const pieces = message.replaceAll(example, actual).split('…');
    return new RegExp(`^${pieces.map((piece) => piece.replaceAll(/[\\^$.*+?()[\]{}|/]/g, '\\$&')).join('.*')}$`);
  }

  test('no KVM', () => {
    const path = join(directory, 'kvm');
    expect(() => KvmSystem.open(path)).toThrow(pattern(`${KVM_DEVICE} does not exist`, `${path} does not exist`));
  });

  test('a compressed kernel', () => {
    const path = join(directory, 'vmlinux.gz');
    writeFileSync(path, Buffer.from([0x1f, 0x8b]));
    using file = new BootFile(path, 'kernel');
    expect(() => parseElfKernel(file)).toThrow(pattern('/boot/vmlinux.gz', path));
  });

  test('a socket in use', () => {
    const path = join(directory, 'ch.vsock');
    const socket = new HostSocket('--vsock', path);
    expect(() => new HostSocket('--vsock', path)).toThrow(pattern('/tmp/ch.vsock', path));
    socket.close();
  });

  test('an option in other words', () => {
    const command = parseCommandLine(['--memory', '128M']);
    const options = command.action === 'run' ? command.options : new Map<string, readonly string[]>();
    expect(() => parseVmOptions(options)).toThrow(pattern('--memory', '--memory'));
  });
});
