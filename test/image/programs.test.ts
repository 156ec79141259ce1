// Programs and what they need: from a host that the test has made, of ELF files of a few hundred bytes, and from the real one.

import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { Budget } from '../../src/image/budget.js';
import { readExecutable } from '../../src/image/elf-dependencies.js';
import { ImageError } from '../../src/image/errors.js';
import { ProgramAdder } from '../../src/image/programs.js';
import { Tree } from '../../src/image/tree.js';

interface ElfOptions {
  readonly interpreter?: string;
  readonly needed?: readonly string[];
  readonly rpath?: string;
  readonly runpath?: string;
  readonly machine?: number;
}

const EHDR_SIZE = 64;
const PHDR_SIZE = 56;
const BASE = 0x40_0000;

/** A shared object: a PT_LOAD of the whole file, PT_DYNAMIC, perhaps PT_INTERP. */
function elf({ interpreter, needed = [], rpath, runpath, machine = 62 }: ElfOptions = {}): Buffer {
  let strings = '\0';
  const at = (text: string): number => {
    strings += `${text}\0`;
    return strings.length - text.length - 1;
  };
  const tags: [number, number][] = needed.map((name) => [1, at(name)]);
  if (rpath !== undefined) tags.push([15, at(rpath)]);
  if (runpath !== undefined) tags.push([29, at(runpath)]);
  const interp = interpreter === undefined ? 0 : at(interpreter);
  const dynamicAt = EHDR_SIZE + 3 * PHDR_SIZE;
  const stringsAt = dynamicAt + (tags.length + 2) * 16;
  tags.push([5, BASE + stringsAt], [0, 0]);
  const file = Buffer.alloc(stringsAt + strings.length);
  file.write('\x7fELF\x02\x01\x01', 0, 'latin1');
  file.writeUInt16LE(3, 16);
  file.writeUInt16LE(machine, 18);
  file.writeBigUInt64LE(BigInt(EHDR_SIZE), 32);
  file.writeUInt16LE(PHDR_SIZE, 54);
  file.writeUInt16LE(interpreter === undefined ? 2 : 3, 56);
  const segment = (index: number, type: number, offset: number, size: number): void => {
    const start = EHDR_SIZE + index * PHDR_SIZE;
    file.writeUInt32LE(type, start);
    file.writeBigUInt64LE(BigInt(offset), start + 8);
    file.writeBigUInt64LE(BigInt(BASE + offset), start + 16);
    file.writeBigUInt64LE(BigInt(size), start + 32);
  };
  segment(0, 1, 0, file.length);
  segment(1, 2, dynamicAt, tags.length * 16);
  if (interpreter !== undefined) segment(2, 3, stringsAt + interp, interpreter.length + 1);
  tags.forEach(([tag, value], index) => {
    file.writeBigUInt64LE(BigInt(tag), dynamicAt + index * 16);
    file.writeBigUInt64LE(BigInt(value), dynamicAt + index * 16 + 8);
  });
  file.write(strings, stringsAt, 'latin1');
  return file;
}

let root = '';
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'tsvmm-programs-'));
});
afterEach(() => {
  rmSync(root, { recursive: true });
});

function put(path: string, bytes: Buffer | string): void {
  mkdirSync(dirname(join(root, path)), { recursive: true });
  writeFileSync(join(root, path), bytes, { mode: 0o755 });
}

const LOADER = '/lib64/ld-linux-x86-64.so.2';
const MUSL = '/lib/ld-musl-x86_64.so.1';

/** Adds programs of the made host to `tree`; the files that it then has, and its links. */
async function addedTo(
  tree: Tree,
  ...programs: readonly string[]
): Promise<{ files: string[]; links: Record<string, string>; notes: string[] }> {
  const notes: string[] = [];
  const note = (text: string): void => void notes.push(text);
  const adder = new ProgramAdder({ tree, budget: new Budget(2 ** 40), signal: undefined, root, note });
  for (const program of programs) await adder.add(program);
  const entries = [...tree.entries()];
  const files = entries.filter(({ inode }) => inode.kind === 'file').map(({ path }) => path);
  const links = Object.fromEntries(
    entries.flatMap(({ path, inode }) => (inode.kind === 'symlink' ? [[path, inode.target]] : [])),
  );
  return { files, links, notes };
}

function added(...programs: readonly string[]): ReturnType<typeof addedTo> {
  return addedTo(new Tree(), ...programs);
}

async function codeOf(work: Promise<unknown>): Promise<string> {
  const error = await work.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  if (error === undefined) return 'read';
  if (error instanceof ImageError) return error.code;
  throw new Error('not an ImageError', { cause: error });
}

describe('programs', () => {
  test('come with their loader and the libraries of their libraries, each once', async () => {
    put('/bin/app', elf({ interpreter: LOADER, needed: ['libone.so', 'libc.so.6'] }));
    put('/bin/other', elf({ interpreter: LOADER, needed: ['libone.so'] }));
    put('/lib/libone.so', elf({ needed: ['libc.so.6', 'ld-linux-x86-64.so.2'] }));
    put('/lib/x86_64-linux-gnu/libc.so.6', elf());
    put(LOADER, elf());
    expect((await added('/bin/app', '/bin/other')).files).toEqual([
      'bin/app',
      'bin/other',
      'lib/libone.so',
      'lib/x86_64-linux-gnu/libc.so.6',
      'lib64/ld-linux-x86-64.so.2',
    ]);
  });

  test('a static program comes alone', async () => {
    put('/app', elf());
    expect((await added('/app')).files).toEqual(['app']);
  });

  test('where the host has /bin as a link to /usr/bin, a program has its short name, too', async () => {
    put('/usr/bin/sh', elf());
    symlinkSync('usr/bin', join(root, 'bin'));
    expect(await added('/usr/bin/sh')).toMatchObject({ files: ['usr/bin/sh'], links: { 'bin/sh': '/usr/bin/sh' } });
    expect(await added('/bin/sh')).toMatchObject({ files: ['bin/sh'], links: {} });
    put('/usr/sbin/only-there', elf());
    put('/sbin/other', elf());
    expect((await added('/usr/sbin/only-there')).links).toEqual({});
  });

  test('what has the short name already keeps it', async () => {
    put('/usr/bin/sh', elf());
    symlinkSync('usr/bin', join(root, 'bin'));
    const attributes = { mode: 0o755, uid: 0, gid: 0, mtime: 0 };
    const tree = new Tree();
    tree.put(['bin', 'sh'], { kind: 'symlink', attributes, target: 'busybox' }, 'a folder');
    expect((await addedTo(tree, '/usr/bin/sh')).links).toEqual({ 'bin/sh': 'busybox' });
    const merged = new Tree();
    merged.put(['bin'], { kind: 'symlink', attributes, target: 'usr/bin' }, 'a layer');
    expect((await addedTo(merged, '/usr/bin/sh')).links).toEqual({ bin: 'usr/bin' });
  });

  test('RUNPATH is for its own file; RPATH is inherited; $ORIGIN is the folder of the file', async () => {
    put('/opt/a/app', elf({ interpreter: LOADER, needed: ['libx.so'], rpath: '$ORIGIN/../lib:/unused' }));
    put('/opt/lib/libx.so', elf({ needed: ['liby.so'] }));
    put('/opt/lib/liby.so', elf());
    put('/opt/b/app', elf({ interpreter: LOADER, needed: ['libz.so'], runpath: '${ORIGIN}/lib' }));
    put('/opt/b/lib/libz.so', elf({ needed: ['libw.so'] }));
    put('/opt/b/lib/libw.so', elf());
    put(LOADER, elf());
    expect((await added('/opt/a/app')).files).toContain('opt/lib/liby.so');
    expect(await codeOf(added('/opt/b/app'))).toBe('missing-library');
  });

  test('a library for another machine is passed over', async () => {
    put('/app', elf({ interpreter: LOADER, needed: ['libx.so'] }));
    put('/lib64/libx.so', elf({ machine: 3 }));
    put('/usr/lib/libx.so', elf());
    put(LOADER, elf());
    expect((await added('/app')).files).toContain('usr/lib/libx.so');
  });

  test('what only ld.so.conf finds is put where the guest looks', async () => {
    put('/app', elf({ interpreter: LOADER, needed: ['libx.so'] }));
    put('/etc/ld.so.conf.d/local.conf', '# comment\n/usr/local/lib\n');
    put('/usr/local/lib/libx.so', elf());
    put(LOADER, elf());
    expect((await added('/app')).files).toContain('lib64/libx.so');
  });

  test('musl has libc in its loader', async () => {
    put('/app', elf({ interpreter: MUSL, needed: ['libc.musl-x86_64.so.1', 'libz.so'] }));
    put('/usr/local/lib/libz.so', elf());
    put(MUSL, elf());
    expect((await added('/app')).files).toEqual(['app', 'lib/ld-musl-x86_64.so.1', 'usr/local/lib/libz.so']);
  });

  test('a script comes with its interpreter; what env looks for is said to be missing', async () => {
    put('/script', '#! /bin/sh -e\necho\n');
    put('/bin/sh', elf());
    put('/other', '#!/usr/bin/env python3\n');
    put('/usr/bin/env', elf());
    expect((await added('/script')).files).toEqual(['bin/sh', 'script']);
    expect((await added('/other')).notes).toEqual([expect.stringContaining('run by /usr/bin/env')]);
  });

  test.each<[string, () => void, string]>([
    [
      'one for another machine',
      () => {
        put('/app', elf({ machine: 183 }));
      },
      'wrong-kind',
    ],
    [
      'a text file',
      () => {
        put('/app', 'hello');
      },
      'wrong-kind',
    ],
    [
      'a library that is nowhere',
      () => {
        put('/app', elf({ needed: ['libnone.so'] }));
      },
      'missing-library',
    ],
    [
      'a library beside wherever it is started',
      () => {
        put('/app', elf({ needed: ['./libnone.so'] }));
      },
      'missing-library',
    ],
    [
      'scripts without an end',
      () => {
        put('/app', '#!/app2\n');
        put('/app2', '#!/app3\n');
        put('/app3', '#!/app4\n');
        put('/app4', '#!/app5\n');
        put('/app5', '#!/app6\n');
        put('/app6', '#!/app7\n');
        put('/app7', '#!/app8\n');
      },
      'bad-link',
    ],
    [
      'a loader that is missing',
      () => {
        put('/app', elf({ interpreter: LOADER }));
      },
      'not-found',
    ],
    [
      'a folder',
      () => {
        mkdirSync(join(root, 'app'));
      },
      'wrong-kind',
    ],
    [
      'a link in a circle',
      () => {
        symlinkSync('app', join(root, 'app'));
      },
      'wrong-kind',
    ],
    [
      'an ELF file that was cut',
      () => {
        put('/app', elf({ needed: ['x'] }).subarray(0, 130));
      },
      'bad-elf',
    ],
  ])('%s is refused by name', async (_, prepare, code) => {
    prepare();
    expect(await codeOf(added('/app'))).toBe(code);
  });

  test('those of this host have what the loader would load', async () => {
    const executable = await readExecutable(process.execPath);
    expect(executable).toMatchObject({ kind: 'elf', needed: expect.arrayContaining(['libc.so.6']) });
  });
});

test('whatever an ELF file says, it is read or refused with an ImageError', async () => {
  const valid = elf({ interpreter: LOADER, needed: ['a', 'b'], rpath: '/x' });
  const path = join(root, 'file');
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.tuple(fc.nat(valid.length - 1), fc.nat(255)), { minLength: 1, maxLength: 12 }),
      fc.nat(valid.length),
      async (changes, cut) => {
        const bytes = Buffer.from(valid);
        for (const [at, value] of changes) bytes[at] = value;
        writeFileSync(path, bytes.subarray(0, bytes.length - (cut % 3 === 0 ? cut : 0)));
        expect(await codeOf(readExecutable(path))).toMatch(/^(read|bad-elf)$/);
      },
    ),
    { numRuns: 300 },
  );
  expect(readFileSync(path).length).toBeLessThanOrEqual(valid.length);
});
