// Images of folders and programs, as an initramfs and as ext4: what is in them, that the same material gives the same bytes,
// what is refused, and that nothing stays behind.

import { execFileSync, spawnSync } from 'node:child_process';
import {
  chmodSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { GUEST_AGENT } from '../../src/agent/binary.js';
import { buildImage, type ImageOptions, type ImageReport } from '../../src/image/build.js';
import { ImageError } from '../../src/image/errors.js';
import { readCpio } from '../support/read-cpio.js';
import { dockerArchive, tar } from '../support/tar.js';
import { describeWithTool } from '../support/tools.js';

const BIG = 300_000;

let folder = '';
let root = '';
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'tsvmm-image-'));
  root = join(folder, 'root');
  mkdirSync(join(root, 'a "q" b'), { recursive: true });
  mkdirSync(join(root, 'empty'), { mode: 0o700 });
  writeFileSync(join(root, 'a "q" b', 'big'), Buffer.alloc(BIG, 'abc'));
  writeFileSync(join(root, 'init'), '#!/bin/sh\n');
  chmodSync(join(root, 'init'), 0o4711);
  linkSync(join(root, 'init'), join(root, 'same'));
  symlinkSync('../../out/of/it', join(root, 'link'));
  execFileSync('mkfifo', [join(root, 'fifo')]);
  mkdirSync(Buffer.concat([Buffer.from(`${root}/`), Buffer.from([0xff, 0xfe])]));
  for (const name of ['a "q" b/big', 'init', 'fifo', 'a "q" b', 'empty', '.']) utimesSync(join(root, name), 1000, 1000);
});
afterEach(() => {
  rmSync(folder, { recursive: true });
});

/** Builds an image of `root`; returns its path. */
async function build(
  name: string,
  options: Partial<ImageOptions> = {},
): Promise<{ output: string; report: ImageReport }> {
  const output = join(folder, name);
  const format = name.endsWith('.ext4') ? 'ext4' : 'initramfs';
  const report = await buildImage({ sources: [{ kind: 'folder', path: root }], format, output, ...options });
  return { output, report };
}

async function refusal(work: Promise<unknown>): Promise<{ code: string; message: string; left: string[] }> {
  const error = await work.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  if (!(error instanceof ImageError)) throw new Error(`not refused, but ${String(error)}`);
  const left = readdirSync(folder).filter((name) => name !== 'root');
  return { code: error.code, message: error.message, left };
}

describe('an initramfs of a folder', () => {
  test('has everything as it is there, sorted, compressed by gzip', async () => {
    const { output, report } = await build('i.cpio.gz');
    const entries = readCpio(gunzipSync(readFileSync(output)));
    expect(entries.map(({ name }) => name)).toEqual([
      '.',
      'a "q" b',
      'a "q" b/big',
      'empty',
      'fifo',
      'init',
      'link',
      'same',
      '\xff\xfe',
    ]);
    const [, , big, empty, fifo, init, link, same] = entries;
    expect(big.content.equals(readFileSync(join(root, 'a "q" b', 'big')))).toBe(true);
    expect(empty.mode).toBe(0o40700);
    expect(fifo.mode & 0o170000).toBe(0o010000);
    expect(init).toMatchObject({ mode: 0o104711, nlink: 2, mtime: 1000, uid: process.getuid?.() });
    expect(same).toMatchObject({ inode: init.inode, nlink: 2, content: Buffer.from('#!/bin/sh\n') });
    expect(link.content.toString()).toBe('../../out/of/it');
    expect(report).toEqual({
      entries: 8,
      contentBytes: BIG + 10,
      imageBytes: statSync(output).size,
      notes: [],
    });
    expect(readdirSync(folder).sort()).toEqual(['i.cpio.gz', 'root']);
  });

  test('the same folder gives the same bytes, and so does another time of its files with mtime', async () => {
    const [first, second] = [await build('1.gz', { mtime: 7 }), await build('2.gz', { mtime: 7 })];
    utimesSync(join(root, 'init'), 2000, 2000);
    const third = await build('3.gz', { mtime: 7 });
    for (const { output } of [second, third]) {
      expect(readFileSync(output).equals(readFileSync(first.output))).toBe(true);
    }
  });

  test('owner is that of everything in folders', async () => {
    const { output } = await build('i.cpio', { compress: false, owner: { uid: 5, gid: 6 } });
    expect(readCpio(readFileSync(output)).every(({ uid, gid }) => uid === 5 && gid === 6)).toBe(true);
  });

  test('later sources go over earlier ones', async () => {
    const over = join(folder, 'root', 'empty');
    writeFileSync(join(over, 'init'), 'new');
    const sources = [root, over].map((path) => ({ kind: 'folder', path }) as const);
    const { output } = await build('i.cpio', { compress: false, sources });
    const init = readCpio(readFileSync(output)).find(({ name }) => name === 'init');
    expect(init?.content.toString()).toBe('new');
  });

  test('the agent may be the init', async () => {
    const { output } = await build('a.cpio', { compress: false, sources: [], init: GUEST_AGENT });
    const init = readCpio(readFileSync(output)).find(({ name }) => name === 'init');
    expect(init?.mode).toBe(0o100755);
    expect(init?.content.equals(readFileSync(GUEST_AGENT))).toBe(true);
  });

  test('the agent is where the documents say', async () => {
    const { output } = await build('i.cpio', { compress: false, agent: GUEST_AGENT });
    const agent = readCpio(readFileSync(output)).find(({ name }) => name === 'usr/sbin/tsvmm-agent');
    expect(agent?.mode).toBe(0o100755);
    expect(agent?.content.equals(readFileSync(GUEST_AGENT))).toBe(true);
  });

  test('an output in the folder itself is not in the image', async () => {
    const output = join(root, 'i.cpio');
    for (let round = 0; round < 2; round++) {
      await buildImage({ sources: [{ kind: 'folder', path: root }], format: 'initramfs', output, compress: false });
      expect(readCpio(readFileSync(output)).filter(({ name }) => name.includes('cpio'))).toEqual([]);
    }
  });

  test('a socket is left out and said so; what has no init is said, too', async () => {
    rmSync(join(root, 'init'));
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(join(root, 'sock'), resolve));
    const { report } = await build('i.cpio');
    await new Promise((resolve) => server.close(resolve));
    expect(report.notes).toEqual([
      'sock is a socket and was left out',
      expect.stringContaining('there is no /init in it'),
    ]);
  });
});

describeWithTool('an initramfs', 'cpio', 'cpio', () => {
  test('is what cpio itself reads', async () => {
    const { output } = await build('i.cpio', { compress: false });
    const listed = spawnSync('cpio', ['-it', '--quiet'], { input: readFileSync(output), encoding: 'latin1' });
    expect(listed).toMatchObject({ status: 0, stderr: '' });
    expect(listed.stdout.split('\n')).toContain('a "q" b/big');
  });
});

describe('what cannot be built', () => {
  test.each<[string, () => Promise<unknown>, string]>([
    ['a folder that is not there', () => build('i', { sources: [{ kind: 'folder', path: '/nowhere' }] }), 'not-found'],
    [
      'a folder that is a file',
      () => build('i', { sources: [{ kind: 'folder', path: join(root, 'init') }] }),
      'wrong-kind',
    ],
    ['an output that is a folder', () => build('root'), 'wrong-kind'],
    ['an output in no folder', () => build('none/i'), 'not-found'],
    ['more content than is allowed', () => build('i', { maxBytes: BIG }), 'too-large'],
    [
      'a file beyond 4 GiB in an initramfs',
      () => {
        truncateSync(join(root, 'init'), 2 ** 32);
        return build('i');
      },
      'too-large',
    ],
    ['a program that is not there', () => build('i', { sources: [{ kind: 'program', path: '/no/ls' }] }), 'not-found'],
    ['a program that is nowhere', () => build('i', { sources: [{ kind: 'program', path: 'no-such' }] }), 'not-found'],
    [
      'a docker archive that is a folder',
      () => build('i', { sources: [{ kind: 'docker-archive', path: root }] }),
      'wrong-kind',
    ],
    [
      'a layout that is not there',
      () => build('i', { sources: [{ kind: 'oci-layout', path: '/nowhere' }] }),
      'not-found',
    ],
  ])('%s is refused by name, and nothing is left', async (_, work, code) => {
    expect(await refusal(work())).toMatchObject({ code, left: [] });
  });

  test.each(['i.cpio.gz', 'i.ext4'])('stopped in the middle, nothing is left of %s', async (name) => {
    const reason = new Error('enough');
    const stop = new AbortController();
    const layer = tar(
      Array.from({ length: 50 }, (_, index) => ({ name: `f${index}`, content: Buffer.alloc(5000, index) })),
    );
    writeFileSync(join(folder, 'root', 'image.tar'), dockerArchive([{ layers: [layer] }]));
    const sources = [
      { kind: 'docker-archive', path: join(root, 'image.tar') },
      { kind: 'folder', path: root },
    ] as const;
    const work = build(name, { signal: stop.signal, sources });
    setImmediate(() => {
      stop.abort(reason);
    });
    await expect(work).rejects.toBe(reason);
    expect(readdirSync(folder)).toEqual(['root']);
  });
});

describeWithTool('an ext4 image', 'debugfs', 'e2fsprogs', () => {
  const PATH = `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin`;
  const debugfs = (image: string, request: string): string =>
    spawnSync('debugfs', ['-R', request, image], { encoding: 'latin1', env: { PATH } }).stdout;

  test('has owners, modes, times, links and contents, and e2fsck finds nothing', async () => {
    const layer = tar([
      { name: 'owned', content: 'x'.repeat(9000), mode: 0o2755, uid: 100_000, gid: 70_000, mtime: 86_400 },
      { name: 'tty', type: '3', mode: 0o620, gid: 5, major: 5, minor: 1 },
      { name: 'long', type: '2', linkName: 'l'.repeat(100) },
      { name: 'lost+found/', type: '5', mode: 0o711 },
      { name: '<2>/', type: '5', mode: 0o711 },
    ]);
    const path = join(folder, 'root', 'image.tar');
    writeFileSync(path, dockerArchive([{ layers: [layer] }]));
    const sources = [
      { kind: 'folder', path: root },
      { kind: 'docker-archive', path },
    ] as const;
    const { output } = await build('i.ext4', { sources, devices: 'keep' });
    expect(spawnSync('e2fsck', ['-fn', output], { env: { PATH } }).status).toBe(0);
    expect(debugfs(output, 'stat /owned')).toMatch(
      /regular +Mode: +02755[^]*User: 100000 +Group: 70000[^]*mtime: 0x00015180/,
    );
    expect(debugfs(output, 'cat /owned')).toBe('x'.repeat(9000));
    expect(debugfs(output, 'stat /tty')).toMatch(/character special +Mode: +0620[^]*number: 05:01/);
    expect(debugfs(output, 'stat /init')).toMatch(/Mode: +04711[^]*Links: 2[^]*mtime: 0x000003e8/);
    expect(debugfs(output, 'stat /same')).toMatch(/Links: 2/);
    expect(debugfs(output, 'stat /link')).toContain('Fast link dest: "../../out/of/it"');
    expect(debugfs(output, 'cat /long')).toContain('l'.repeat(100));
    expect(debugfs(output, 'stat /fifo')).toContain('FIFO');
    expect(debugfs(output, 'stat /empty')).toMatch(/directory +Mode: +0700[^]*mtime: 0x000003e8/);
    expect(debugfs(output, 'stat /lost+found')).toMatch(/Mode: +0711/);
    expect(debugfs(output, 'ls -p /')).toContain('/040711/0/0/<2>/');
    expect(debugfs(output, 'cat "/a ""q"" b/big"')).toBe(readFileSync(join(root, 'a "q" b', 'big'), 'latin1'));
    expect(debugfs(output, 'ls -p /')).toContain(`/${process.getuid?.() ?? 0}/`);
    expect(readdirSync(folder).sort()).toEqual(['i.ext4', 'root']);
  });

  test('the same folder gives the same image, and another folder another UUID', async () => {
    const [first, second] = [await build('1.ext4'), await build('2.ext4')];
    expect(readFileSync(first.output).equals(readFileSync(second.output))).toBe(true);
    writeFileSync(join(root, 'more'), '');
    const third = await build('3.ext4');
    const uuid = (path: string): Buffer => readFileSync(path).subarray(1024 + 104, 1024 + 120);
    expect(uuid(third.output).equals(uuid(first.output))).toBe(false);
  });

  test('has the size that is given, or is refused when that is too small', async () => {
    const { output } = await build('i.ext4', { size: 64 * 1024 * 1024 });
    expect(statSync(output).size).toBe(64 * 1024 * 1024);
    rmSync(output);
    expect(await refusal(build('i.ext4', { size: 4 * 1024 * 1024 }))).toMatchObject({ code: 'no-space', left: [] });
  });

  test('a name with a line break is refused, an initramfs takes it', async () => {
    writeFileSync(join(root, 'a\nb'), '');
    expect(await refusal(build('i.ext4'))).toMatchObject({ code: 'bad-name', left: [] });
    await build('i.cpio');
  });

  test('without e2fsprogs, the package is named', async () => {
    expect(await refusal(build('i.ext4', { toolPath: '/nowhere' }))).toMatchObject({
      code: 'missing-tool',
      message: expect.stringContaining('install e2fsprogs'),
      left: [],
    });
  });

  test('a tool that fails is quoted', async () => {
    const tools = join(root, 'tools');
    mkdirSync(tools);
    writeFileSync(join(tools, 'mkfs.ext4'), '#!/bin/sh\necho "mke2fs 9.9 (x)" >&2; echo broken >&2; exit 3\n');
    chmodSync(join(tools, 'mkfs.ext4'), 0o755);
    const { code, message, left } = await refusal(build('i.ext4', { toolPath: tools }));
    expect({ code, left }).toEqual({ code: 'tool-failed', left: [] });
    expect(message).toContain('mkfs.ext4 failed (3): broken;');
  });
});
