// `tsvmm image`: its options, and the command as a process.

import { spawn, spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, watch, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { GUEST_AGENT } from '../../src/agent/binary.js';
import { readImageOptions } from '../../src/cli/image.js';
import { ConfigError } from '../../src/config/config-error.js';
import { readCpio } from '../support/read-cpio.js';

const MAIN = fileURLToPath(new URL('../../src/cli/main.js', import.meta.url));

describe('the options of tsvmm image', () => {
  test('sources in their order, values in their units', () => {
    const args = '--folder a --program ls --oci-layout o --image n --folder b --init i --output r.ext4 --size 1G';
    const more = '--owner 0:5 --mtime 7 --devices keep --max-size 2M --agent';
    expect(readImageOptions([...args.split(' '), ...more.split(' ')])).toEqual({
      sources: [
        { kind: 'folder', path: 'a' },
        { kind: 'program', path: 'ls' },
        { kind: 'oci-layout', path: 'o', image: 'n' },
        { kind: 'folder', path: 'b' },
      ],
      format: 'ext4',
      output: 'r.ext4',
      size: 2 ** 30,
      compress: true,
      init: 'i',
      agent: GUEST_AGENT,
      mtime: 7,
      owner: { uid: 0, gid: 5 },
      devices: 'keep',
      maxBytes: 2 ** 21,
    });
  });

  test('the agent may be the init, and all that is in it', () => {
    const read = readImageOptions(['--agent-init', '--output', 'x.cpio']);
    expect(read).toMatchObject({ sources: [], init: GUEST_AGENT, agent: undefined });
  });

  test('kernel modules: of which kernel, and which more', () => {
    const read = (text: string) => readImageOptions([...text.split(' '), '--output', 'x.cpio']);
    expect(read('--modules /lib/modules/6.1.0')).toMatchObject({ modules: { path: '/lib/modules/6.1.0', names: [] } });
    expect(read('--module xfs --modules root --module btrfs --agent-init')).toMatchObject({
      modules: { path: 'root', names: ['xfs', 'btrfs'] },
    });
  });

  test('the name of the output says what it is, unless it is said', () => {
    const read = (...args: string[]) => readImageOptions(['--folder', 'a', '--output', ...args]);
    expect(read('x.cpio')).toMatchObject({ format: 'initramfs', compress: false });
    expect(read('x.cpio.gz')).toMatchObject({ format: 'initramfs', compress: true });
    expect(read('x.img')).toMatchObject({ format: 'ext4' });
    expect(read('x.img', '--format', 'initramfs')).toMatchObject({ format: 'initramfs' });
  });

  test.each([
    ['', 'MISSING_VALUE'],
    ['--output x.cpio', 'MISSING_VALUE'],
    ['--folder a --output x', 'MISSING_VALUE'],
    ['--folder a --output x --format tar', 'WRONG_TYPE'],
    ['--folder a --output x.cpio --size 1G', 'CONFLICT'],
    ['--folder a --output x.img --size 5000', 'OUT_OF_RANGE'],
    ['--folder a --output x.img --size big', 'WRONG_TYPE'],
    ['--folder a --output x.img --owner root', 'WRONG_TYPE'],
    ['--folder a --output x.img --owner 0:4294967295', 'WRONG_TYPE'],
    ['--folder a --output x.img --mtime -1', 'OUT_OF_RANGE'],
    ['--folder a --output x.img --devices skip', 'WRONG_TYPE'],
    ['--folder a --output x.img --image n', 'CONFLICT'],
    ['--agent-init --init i --output x.img', 'CONFLICT'],
    ['--agent-init --module xfs --output x.img', 'MISSING_KEY'],
    ['--modules a --modules b --output x.img', 'DUPLICATE'],
    ['--folder a --output x.img --outptu y', 'UNKNOWN_OPTION'],
  ])('%j is refused: %s', (text, code) => {
    const args = text === '' ? [] : text.split(' ');
    expect(() => readImageOptions(args)).toThrow(ConfigError);
    expect(() => readImageOptions(args)).toThrow(expect.objectContaining({ code }));
  });
});

describe('tsvmm image', () => {
  let folder = '';
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'tsvmm-image-'));
    mkdirSync(join(folder, 'root'));
    writeFileSync(join(folder, 'root', 'init'), '#!/bin/sh\n');
  });
  afterEach(() => {
    rmSync(folder, { recursive: true });
  });

  function tsvmm(...args: string[]) {
    const { status, stdout, stderr } = spawnSync(process.execPath, [MAIN, 'image', ...args], {
      cwd: folder,
      encoding: 'utf8',
    });
    return { status, stdout, stderr };
  }

  test('says what it has built', () => {
    expect(tsvmm('--folder', 'root', '--output', 'i.cpio')).toEqual({
      status: 0,
      stdout: expect.stringMatching(/^i\.cpio: \d+ bytes, with 1 entries and 10 bytes of content\n$/),
      stderr: '',
    });
    expect(readCpio(readFileSync(join(folder, 'i.cpio'))).map(({ name }) => name)).toEqual(['.', 'init']);
  });

  test('a mistake in the material is one line and status 2', () => {
    expect(tsvmm('--docker-archive', 'root/init', '--output', 'i.cpio')).toEqual({
      status: 2,
      stdout: '',
      stderr: 'tsvmm: root/init: the archive ends in the middle of a header; make or download it again\n',
    });
    expect(readdirSync(folder)).toEqual(['root']);
  });

  test('Ctrl-C leaves nothing behind', async () => {
    // Enough that it is still at work when the signal comes.
    writeFileSync(join(folder, 'root', 'big'), randomBytes(64 * 1024 * 1024));
    // It has begun when there is something beside the root.
    const begun = new Promise<void>((resolve) => {
      const watcher = watch(folder, () => {
        watcher.close();
        resolve();
      });
    });
    const args = [MAIN, 'image', '--folder', 'root', '--output', 'i.cpio.gz'];
    const child = spawn(process.execPath, args, { cwd: folder, stdio: 'ignore' });
    const ended = once(child, 'close') as Promise<[number | null, string | null]>;
    await Promise.race([begun, ended]);
    child.kill('SIGINT');
    expect((await ended)[0]).toBe(130);
    expect(readdirSync(folder)).toEqual(['root']);
  });
});
