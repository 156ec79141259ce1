// Container images: docker archives and OCI layouts made here, layers over layers, and everything that is refused.

import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { buildImage, type ImageOptions, type ImageSource } from '../../src/image/build.js';
import { ImageError } from '../../src/image/errors.js';
import { type CpioEntry, readCpio } from '../support/read-cpio.js';
import {
  dockerArchive,
  ociFiles,
  pax,
  sha256,
  tar,
  type TarItem,
  tarItem,
  type TestImage,
  writeFiles,
} from '../support/tar.js';

let folder = '';
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'tsvmm-image-'));
});
afterEach(() => {
  rmSync(folder, { recursive: true });
});

async function build(source: ImageSource, options: Partial<ImageOptions> = {}): Promise<Map<string, CpioEntry>> {
  const output = join(folder, 'out.cpio');
  await buildImage({ sources: [source], format: 'initramfs', output, compress: false, ...options });
  return new Map(readCpio(readFileSync(output)).map((entry) => [entry.name, entry]));
}

function archive(bytes: Buffer): ImageSource {
  const path = join(folder, 'image.tar');
  writeFileSync(path, bytes);
  return { kind: 'docker-archive', path };
}

/** What an archive of these layers gives. */
function buildLayers(...layers: readonly (readonly (TarItem | Buffer)[])[]): Promise<Map<string, CpioEntry>> {
  return build(archive(dockerArchive([{ layers: layers.map(tar) }])));
}

/** The names but those that are always there. */
function names(entries: Map<string, CpioEntry>): string[] {
  return [...entries.keys()].filter((name) => name !== '.' && name !== 'etc' && !name.startsWith('etc/tsvmm'));
}

async function refusal(work: Promise<unknown>): Promise<{ code: string; message: string; left: string[] }> {
  const error = await work.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  const left = readdirSync(folder).filter((name) => name !== 'image.tar' && name !== 'layout');
  if (!(error instanceof ImageError)) throw new Error(`not refused, but ${String(error)}`);
  return { code: error.code, message: error.message, left };
}

const dir = (name: string): TarItem => ({ name, type: '5', mode: 0o755 });
const link = (name: string, linkName: string): TarItem => ({ name, type: '2', linkName });

describe('layers', () => {
  test('owners, modes, times and hard links are kept, the parents of a file are made', async () => {
    const entries = await buildLayers([
      { name: './a/b/f', content: 'one', mode: 0o6755, uid: 70_000, gid: 5, mtime: 99 },
      { name: '/a/h', type: '1', linkName: './a/b/f' },
    ]);
    expect(names(entries)).toEqual(['a', 'a/b', 'a/b/f', 'a/h']);
    const [file, hard] = [entries.get('a/b/f'), entries.get('a/h')];
    expect(file).toMatchObject({ mode: 0o106755, uid: 70_000, gid: 5, mtime: 99, nlink: 2 });
    expect(hard?.inode).toBe(file?.inode);
    expect(hard?.content.toString()).toBe('one');
  });

  test('a later layer replaces, a whiteout removes, an opaque directory hides what was below', async () => {
    const entries = await buildLayers(
      [
        { name: 'f', content: 'old' },
        { name: 'gone' },
        dir('d'),
        { name: 'd/x' },
        dir('o'),
        { name: 'o/x' },
        dir('kept'),
        { name: 'kept/x' },
      ],
      [
        { name: 'f', content: 'new' },
        { name: '.wh.gone' },
        { name: '.wh.d' },
        { name: 'o/new' },
        { name: 'o/.wh..wh..opq' },
        { name: '.wh..wh.plnk' },
        { ...dir('kept'), mode: 0o700 },
        { name: '.wh.never-was' },
        { name: 'no/.wh.where' },
      ],
    );
    expect(names(entries)).toEqual(['f', 'kept', 'kept/x', 'o', 'o/new']);
    expect(entries.get('f')?.content.toString()).toBe('new');
    expect(entries.get('kept')?.mode).toBe(0o40700);
  });

  test('a whiteout is about earlier layers, wherever it stands in its own', async () => {
    const layer = (items: TarItem[]): Promise<Map<string, CpioEntry>> =>
      buildLayers([dir('d'), { name: 'd/old' }, { name: 'f', content: 'old' }], items);
    const mine = [{ name: 'd/new' }, { name: 'f', content: 'new' }];
    const whiteouts = [{ name: '.wh.d' }, { name: '.wh.f' }];
    for (const items of [
      [...mine, ...whiteouts],
      [...whiteouts, ...mine],
    ]) {
      expect(names(await layer(items))).toEqual(['d', 'd/new', 'f']);
    }
  });

  test('an entry goes through symbolic links of lower layers, inside the image', async () => {
    const entries = await buildLayers(
      [dir('usr'), dir('usr/lib'), link('lib', 'usr/lib'), link('abs', '/usr'), link('usr/up', '../lib')],
      [{ name: 'lib/one' }, { name: 'abs/two' }, { name: 'usr/up/three' }],
    );
    expect(names(entries)).toEqual([
      'abs',
      'lib',
      'usr',
      'usr/lib',
      'usr/lib/one',
      'usr/lib/three',
      'usr/two',
      'usr/up',
    ]);
  });

  test('names need not be UTF-8', async () => {
    const entries = await buildLayers([{ name: '\xff\xfe' }]);
    expect(names(entries)).toEqual(['\xff\xfe']);
  });

  test.each<[string, (TarItem | Buffer)[], string]>([
    ['a name with ".."', [{ name: 'a/../../x' }], 'path-traversal'],
    ['a pax name with ".."', [pax({ path: '../x' }), { name: 'x' }], 'path-traversal'],
    ['a whiteout of ".."', [{ name: '.wh...' }], 'path-traversal'],
    ['a hard link with ".."', [{ name: 'h', type: '1', linkName: '../../etc/passwd' }], 'path-traversal'],
    ['a file through a link out of the image', [link('x', '../../tmp'), { name: 'x/evil' }], 'symlink-escape'],
    ['links in a circle', [link('a', 'b'), link('b', 'a'), { name: 'a/f' }], 'bad-link'],
    ['a hard link to nothing', [{ name: 'h', type: '1', linkName: 'none' }], 'bad-link'],
    ['a hard link to a directory', [dir('d'), { name: 'h', type: '1', linkName: 'd' }], 'bad-link'],
    ['a symbolic link to ""', [link('a', '')], 'bad-link'],
    ['a character device', [{ name: 'c', type: '3', major: 1, minor: 3 }], 'device-node'],
    ['a block device', [{ name: 'b', type: '4', major: 8, minor: 0 }], 'device-node'],
    ['a file below a file', [{ name: 'f' }, { name: 'f/g' }], 'bad-name'],
    ['a root that is a file', [{ name: './' + '.', content: 'x' }], 'bad-name'],
    ['a name of 300 bytes', [pax({ path: 'n'.repeat(300) }), { name: 'x' }], 'bad-name'],
    ['a name with a NUL', [pax({ path: 'a\0b' }), { name: 'x' }], 'bad-name'],
    ['a path without an end', [pax({ path: 'a/'.repeat(3000) + 'b' }), { name: 'x' }], 'bad-name'],
    ['a claim of a terabyte', [pax({ size: '1099511627776' }), { name: 'x' }], 'too-large'],
  ])('%s is refused by name, and nothing is left', async (_, items, code) => {
    expect(await refusal(buildLayers(items))).toMatchObject({ code, left: [] });
  });

  test('device nodes are kept when that is asked for', async () => {
    const image = dockerArchive([{ layers: [tar([{ name: 'c', type: '3', mode: 0o600, major: 5, minor: 1 }])] }]);
    const entries = await build(archive(image), { devices: 'keep' });
    expect(entries.get('c')).toMatchObject({ mode: 0o020600, device: [5, 1] });
  });
});

const FILE: TestImage = { layers: [tar([{ name: 'f', content: 'hello' }])], name: 'one:latest' };
const OTHER: TestImage = { layers: [tar([{ name: 'g' }])], name: 'two:1.0' };

describe('docker archives', () => {
  test('layers may be compressed, and so may the archive', async () => {
    const bytes = dockerArchive([{ ...FILE, gzip: true }]);
    expect(names(await build(archive(bytes)))).toEqual(['f']);
    expect(names(await build(archive(gzipSync(bytes))))).toEqual(['f']);
  });

  test('one of several images is chosen by its name', async () => {
    const several = archive(dockerArchive([FILE, OTHER])) as Extract<ImageSource, { kind: 'docker-archive' }>;
    expect(names(await build({ ...several, image: 'one' }))).toEqual(['f']);
    expect(names(await build({ ...several, image: 'two:1.0' }))).toEqual(['g']);
    expect(await refusal(build(several, { output: join(folder, 'other') }))).toMatchObject({
      code: 'no-such-image',
      message: expect.stringContaining('one:latest, two:1.0'),
    });
    expect(await refusal(build({ ...several, image: 'three' }))).toMatchObject({ code: 'no-such-image' });
  });

  test('how the image is run is kept, as JSON and for a shell', async () => {
    const config = {
      Entrypoint: ['/bin/app', "it's"],
      Cmd: ['a b'],
      Env: ['PATH=/bin', "Q='$HOME'", 'not a name=1'],
      WorkingDir: '/srv',
      User: 'nobody',
    };
    const entries = await build(archive(dockerArchive([{ ...FILE, config }])));
    expect(JSON.parse(entries.get('etc/tsvmm/image.json')?.content.toString() ?? '')).toEqual(config);
    const script = entries.get('etc/tsvmm/image.sh');
    expect(script?.mode).toBe(0o100755);
    expect(script?.content.toString().split('\n').slice(2)).toEqual([
      "export PATH='/bin'",
      "export Q=''\\''$HOME'\\'''",
      "cd '/srv' || exit",
      "exec '/bin/app' 'it'\\''s' 'a b'",
      '',
    ]);
  });

  test('a layer that is not what the configuration says is refused', async () => {
    const diffIds = [`sha256:${'0'.repeat(64)}`];
    expect(await refusal(build(archive(dockerArchive([{ ...FILE, diffIds }]))))).toMatchObject({
      code: 'digest-mismatch',
      left: [],
    });
  });

  test('an image for another machine is refused', async () => {
    const image = archive(dockerArchive([{ ...FILE, architecture: 'arm64' }]));
    expect(await refusal(build(image))).toMatchObject({
      code: 'wrong-machine',
      message: expect.stringContaining('linux on arm64'),
    });
  });

  test.each<[string, Buffer, string]>([
    ['an archive of something else', tar([{ name: 'x' }]), 'no-such-image'],
    ['a manifest that is no JSON', tar([{ name: 'manifest.json', content: '[{' }]), 'bad-manifest'],
    ['a manifest of nothing', tar([{ name: 'manifest.json', content: '[]' }]), 'bad-manifest'],
    ['a manifest of other things', tar([{ name: 'manifest.json', content: '[{"Config":1}]' }]), 'bad-manifest'],
    [
      'a manifest that names what is not there',
      tar([{ name: 'manifest.json', content: '[{"Config":"../../etc/passwd","Layers":[]}]' }]),
      'not-found',
    ],
    [
      'a manifest of many megabytes',
      tar([{ name: 'manifest.json', content: ' '.repeat(5 * 1024 * 1024) }]),
      'bad-manifest',
    ],
    ['a name with ".." beside the layers', tar([{ name: '../manifest.json', content: '[]' }]), 'path-traversal'],
    ['an archive that was cut', dockerArchive([FILE]).subarray(0, 1200), 'truncated'],
    ['a compressed archive that was cut', gzipSync(dockerArchive([FILE])).subarray(0, 200), 'truncated'],
    [
      'a compressed archive that is damaged',
      Buffer.concat([gzipSync(dockerArchive([FILE])).subarray(0, 60), Buffer.alloc(300, 0x55)]),
      'bad-gzip',
    ],
    ['no archive at all', Buffer.from('hello'.repeat(200)), 'bad-tar'],
  ])('%s is refused by name, and nothing is left', async (_, bytes, code) => {
    expect(await refusal(build(archive(bytes)))).toMatchObject({ code, left: [] });
  });

  test('a small archive of much content is stopped at the limit', async () => {
    const bomb = tar([{ name: 'zeroes', content: Buffer.alloc(3 * 1024 * 1024) }]);
    const source = archive(dockerArchive([{ layers: [bomb], gzip: true }]));
    expect(await refusal(build(source, { maxBytes: 1024 * 1024 }))).toMatchObject({ code: 'too-large', left: [] });
  });

  test('whatever the manifest is, it is used or refused with an ImageError', async () => {
    const config = Buffer.from('{}');
    await fc.assert(
      fc.asyncProperty(fc.jsonValue({ maxDepth: 4 }), fc.jsonValue({ maxDepth: 3 }), async (Layers, other) => {
        const manifest = JSON.stringify([{ Config: 'c.json', Layers, RepoTags: other }]);
        const source = archive(
          tar([
            { name: 'c.json', content: config },
            { name: 'manifest.json', content: manifest },
          ]),
        );
        expect((await refusal(build(source))).code).toMatch(/^(bad-manifest|not-found)$/);
      }),
      { numRuns: 60 },
    );
  });
});

describe('OCI layouts', () => {
  function layout(files: ReadonlyMap<string, Buffer>): ImageSource {
    const path = join(folder, 'layout');
    writeFiles(path, files);
    return { kind: 'oci-layout', path };
  }

  test('one image, straight or behind an index of machines', async () => {
    expect(names(await build(layout(ociFiles([FILE]))))).toEqual(['f']);
    rmSync(join(folder, 'layout'), { recursive: true });
    const arm: TestImage = { ...OTHER, architecture: 'arm64' };
    expect(names(await build(layout(ociFiles([arm, { ...FILE, gzip: true }], true))))).toEqual(['f']);
  });

  test('a layout in a tar archive is read as one', async () => {
    const items = [...ociFiles([FILE])].map(([name, content]) => ({ name, content }));
    const path = join(folder, 'image.tar');
    writeFileSync(path, tar(items));
    expect(names(await build({ kind: 'oci-layout', path }))).toEqual(['f']);
  });

  test('there is none for this machine: the error says for which', async () => {
    const source = layout(ociFiles([{ ...FILE, architecture: 'riscv64' }], true));
    expect(await refusal(build(source))).toMatchObject({
      code: 'wrong-machine',
      message: expect.stringContaining('linux/riscv64'),
    });
  });

  /** The layout of FILE with one blob, found by `includes`, changed. */
  function changed(includes: string, change: (bytes: Buffer) => Buffer): ReadonlyMap<string, Buffer> {
    return new Map(
      [...ociFiles([FILE])].map(([name, bytes]) => [name, bytes.includes(includes) ? change(bytes) : bytes]),
    );
  }
  const flip = (bytes: Buffer): Buffer => Buffer.concat([bytes.subarray(0, -1), Buffer.from(' ')]);

  test.each<[string, () => ReadonlyMap<string, Buffer>, string]>([
    ['a layer whose last byte is another', () => changed('hello', flip), 'digest-mismatch'],
    ['a configuration that was changed', () => changed('diff_ids', flip), 'digest-mismatch'],
    ['a layer that was cut', () => changed('hello', (bytes) => bytes.subarray(0, 800)), 'truncated'],
    [
      'a layout of another version',
      () => changed('imageLayoutVersion', () => Buffer.from('{"imageLayoutVersion":"2"}')),
      'bad-manifest',
    ],
    [
      'a digest that is a path',
      () =>
        new Map([
          ...ociFiles([FILE]),
          ['index.json', Buffer.from('{"manifests":[{"digest":"sha256:../../../etc/passwd","size":1}]}')],
        ]),
      'bad-manifest',
    ],
    [
      'a blob that is missing',
      () => new Map([...ociFiles([FILE])].filter(([name]) => !name.includes(sha256(FILE.layers[0])))),
      'not-found',
    ],
    [
      'an index of nothing',
      () => new Map([...ociFiles([FILE]), ['index.json', Buffer.from('{"manifests":[]}')]]),
      'no-such-image',
    ],
  ])('%s is refused by name, and nothing is left', async (_, files, code) => {
    expect(await refusal(build(layout(files())))).toMatchObject({ code, left: [] });
  });

  test('a layer compressed by zstd is named', async () => {
    const zstd = Buffer.concat([Buffer.from([0x28, 0xb5, 0x2f, 0xfd]), Buffer.alloc(600)]);
    expect(await refusal(build(layout(ociFiles([{ layers: [zstd] }]))))).toMatchObject({
      code: 'unsupported',
      message: expect.stringContaining('zstd'),
    });
  });

  test('the image is not there when it is refused, and the old one stays', async () => {
    const output = join(folder, 'out.cpio');
    writeFileSync(output, 'old');
    await refusal(build(layout(changed('hello', flip))));
    expect(readFileSync(output, 'utf8')).toBe('old');
    expect(existsSync(output)).toBe(true);
  });
});

test('a header behind the last entry of a layer is not read as one', async () => {
  const layer = Buffer.concat([tar([{ name: 'f' }]), tarItem({ name: 'behind' })]);
  expect(names(await build(archive(dockerArchive([{ layers: [layer] }]))))).toEqual(['f']);
});
