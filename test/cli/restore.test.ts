// `--restore` and the options beside it, without a VM: what is asked for, and which configuration comes of it.

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { vmConfigOf } from '../../src/cli/config.js';
import { parseCommandLine } from '../../src/cli/options.js';
import { resumesAtOnce } from '../../src/cli/restore.js';
import { DEFAULT_VM_CONFIG, type VmConfig } from '../../src/config/vm-config.js';
import { MIB } from '../../src/platform/units.js';

let folder = '';
let saved: VmConfig;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'tsvmm-restore-'));
  const disks = ['a', 'b'].map((name) => ({ path: file(name), id: name }));
  saved = {
    ...DEFAULT_VM_CONFIG,
    cpus: { boot_vcpus: 2, max_vcpus: 2 },
    memory: { size: 64 * MIB },
    serial: { mode: 'File', file: join(folder, 'serial') },
    vsock: { cid: 3, socket: join(folder, 'v'), max_connections: 7 },
    disks,
    net: [{ tap: 'tap0', mac: '12:34:56:78:9a:bc' }],
  };
  writeFileSync(join(folder, 'config.json'), JSON.stringify(saved));
});
afterEach(() => {
  rmSync(folder, { recursive: true });
});

function file(name: string): string {
  const path = join(folder, name);
  writeFileSync(path, new Uint8Array(4096));
  return path;
}

function restoreOf(...args: string[]) {
  const command = parseCommandLine(args);
  return command.action === 'run' ? command.restore : undefined;
}

async function configOf(...args: string[]): Promise<VmConfig> {
  const command = parseCommandLine(['--restore', folder, ...args]);
  if (command.action !== 'run') throw new Error('not to be run');
  return vmConfigOf(command);
}

describe('what --restore is given', () => {
  test.each([
    ['/var/vm', '/var/vm'],
    ['./vm', './vm'],
    ['source_url=/var/vm', '/var/vm'],
    ['source_url=vm', 'vm'],
    ['source_url=file:///var/vm', '/var/vm'],
    ['source_url="file:///var/a,b"', '/var/a,b'],
  ])('%s is a folder', (text, directory) => {
    expect(restoreOf('--restore', text)).toEqual({ directory, resume: undefined, prefault: undefined });
  });

  test('resume and prefault', () => {
    expect(restoreOf('--restore', 'source_url=/vm,resume=on,prefault=off')).toEqual({
      directory: '/vm',
      resume: true,
      prefault: false,
    });
  });

  test.each([
    ['source_url=http://host/vm', /source_url: "http:\/\/host\/vm" is not on this host/],
    ['source_url=file://', /the path is empty/],
    ['resume=on', /source_url: missing/],
    ['source_url=/vm,resume=perhaps', /resume: "perhaps"/],
    ['source_url=/vm,net_fds=[n@[1,2]]', /net_fds: not supported.*--net tap=/],
  ])('%s is refused', (text, message) => {
    expect(() => restoreOf('--restore', text)).toThrow(message);
  });

  test('a configuration file beside it is refused', () => {
    expect(() => restoreOf('--restore', '/vm', '--config', 'vm.json')).toThrow(/--restore: .*Leave --config out/);
  });

  test('the guest goes on at once, unless something else can let it', () => {
    const request = { directory: '/vm', resume: undefined, prefault: undefined };
    expect(resumesAtOnce(request, false)).toBe(true);
    expect(resumesAtOnce(request, true)).toBe(false);
    expect(resumesAtOnce({ ...request, resume: true }, true)).toBe(true);
    expect(() => resumesAtOnce({ ...request, resume: false }, false)).toThrow(/resume: off, and nobody could/);
  });
});

describe('options beside --restore', () => {
  test('nothing beside it: the VM is as it was saved', async () => {
    expect(await configOf()).toEqual(saved);
  });

  test('what they name on the host replaces what the saved VM had; the rest stays', async () => {
    const socket = join(folder, 'w');
    const other = file('c');
    expect(await configOf('--vsock', `cid=4,socket=${socket}`, '--disk', `path=${other}`, '--net', 'tap=tap1')).toEqual(
      {
        ...saved,
        vsock: { cid: 4, socket, max_connections: 7 },
        disks: [{ path: other, id: 'a' }, saved.disks?.[1]],
        net: [{ tap: 'tap1', mac: '12:34:56:78:9a:bc' }],
      },
    );
  });

  test('a disk is meant by its name, or else by its place among those without', async () => {
    const [c, d] = [file('c'), file('d')];
    const { disks } = await configOf('--disk', `path=${c},id=b`, `path=${d}`);
    expect(disks).toEqual([
      { path: d, id: 'a' },
      { path: c, id: 'b' },
    ]);
  });

  test('a console goes elsewhere as a whole', async () => {
    expect((await configOf('--serial', 'null')).serial).toEqual({ mode: 'Null' });
  });

  test('ports and services of the host are its own: given anew they replace the saved ones, and need its vsock', async () => {
    const kernel = file('kernel');
    const publish = [{ host_port: 0, guest_port: 80 }];
    const host_services = [{ name: 'db', to: '/db' }];
    const before = { ...saved, payload: { kernel }, publish, host_services };
    writeFileSync(join(folder, 'config.json'), JSON.stringify(before));
    expect(await configOf()).toEqual(before);
    expect(await configOf('--publish', '1:2', '--host-service', 'none')).toEqual({
      ...before,
      publish: [{ host_port: 1, guest_port: 2 }],
      host_services: [],
    });
    writeFileSync(join(folder, 'config.json'), JSON.stringify({ ...saved, payload: { kernel }, vsock: undefined }));
    await expect(configOf('--publish', '1:2')).rejects.toThrow(/^--publish: the saved VM has no vsock/);
  });

  test('prefault', async () => {
    const command = parseCommandLine(['--restore', `source_url=${folder},prefault=on`]);
    if (command.action !== 'run') throw new Error('not to be run');
    expect((await vmConfigOf(command)).memory).toEqual({ size: 64 * MIB, prefault: true });
  });

  test.each([
    [['--cpus', 'boot=4'], /^--cpus boot: the saved VM had 2, and its guest knows it so/],
    [['--memory', 'size=128M'], /^--memory size: the saved VM had 67108864/],
    [['--disk', 'path=/dev/null,readonly=on'], /^--disk readonly: the saved VM had none/],
    [['--net', 'mac=12:34:56:78:9a:bd'], /^--net mac: the saved VM had "12:34:56:78:9a:bc"/],
    [['--disk', 'path=/1', 'path=/2', 'path=/3'], /^--disk \(third\): the saved VM had none/],
    [['--balloon', 'size=0'], /^--balloon size: the saved VM had none/],
    [['--watchdog'], /^--watchdog: the saved VM had none/],
    [['--console', 'null'], /^--console: the saved VM had "Off"/],
    [['--serial', 'off'], /^--serial: the saved VM had "File"/],
    [['--cmdline', 'quiet'], /^--cmdline/],
    [['--kernel', '/boot/vmlinux'], /^--kernel: the saved VM had none/],
  ])('%j would be another machine', async (args, message) => {
    await expect(configOf(...args)).rejects.toThrow(message);
  });

  test('a mistake is named as anywhere else', async () => {
    await expect(configOf('--disk', `path=${join(folder, 'missing')}`)).rejects.toThrow(
      /^--disk path: .*does not exist/,
    );
  });

  test('a folder without a configuration, and one that is damaged', async () => {
    writeFileSync(join(folder, 'config.json'), '{"cpuz":{}}');
    await expect(configOf()).rejects.toThrow(/snapshot in .* cannot be restored: config\.json is damaged: .*cpuz/);
    rmSync(join(folder, 'config.json'));
    await expect(configOf()).rejects.toThrow(/it has no config\.json: it is not a snapshot/);
  });
});
