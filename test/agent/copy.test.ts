// Files and folders to the guest and back: kept as they are, and never half there.

import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import {
  chmodSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  symlinkSync,
  watch,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import type { CopyProgress } from '../../src/agent/copy.js';
import { crc32 } from '../../src/agent/crc32.js';
import { LocalAgent } from '../support/local-agent.js';

const MIB = 1024 * 1024;
let local: LocalAgent;

beforeEach(async () => {
  local = await LocalAgent.start();
});
afterEach(async () => {
  await local.stop();
});

/** Every entry with kind, mode and content, by its path as bytes. */
function listing(top: string): Record<string, string> {
  const entries: Record<string, string> = {};
  const visit = (path: Buffer, name: string): void => {
    const status = lstatSync(path);
    const mode = (status.mode & 0o7777).toString(8);
    if (status.isSymbolicLink()) entries[name] = `link ${readlinkSync(path, 'latin1')}`;
    else if (status.isFile()) entries[name] = `file ${mode} ${readFileSync(path).toString('latin1')}`;
    else {
      entries[name] = `folder ${mode}`;
      for (const entry of readdirSync(path, { encoding: 'buffer' })) {
        visit(Buffer.concat([path, Buffer.from('/'), entry]), `${name}/${entry.toString('latin1')}`);
      }
    }
  };
  visit(Buffer.from(top), '');
  return entries;
}

/** Names that a copy leaves in a folder besides what was there. */
function leftovers(folder: string): string[] {
  return readdirSync(folder).filter((name) => name.startsWith('.tsvmm-copy-'));
}

function makeTree(top: string): void {
  mkdirSync(join(top, 'empty'), { recursive: true });
  mkdirSync(join(top, 'deep', 'er'), { recursive: true });
  writeFileSync(join(top, 'none'), '');
  writeFileSync(join(top, 'program'), '#!/bin/sh\n');
  chmodSync(join(top, 'program'), 0o755);
  writeFileSync(join(top, 'deep', 'er', 'secret'), 'secret');
  chmodSync(join(top, 'deep', 'er', 'secret'), 0o400);
  writeFileSync(Buffer.concat([Buffer.from(`${top}/`), Buffer.from([0xff, 0xfe, 0x20, 0x0a])]), 'not UTF-8');
  symlinkSync('../none', join(top, 'deep', 'link'));
  symlinkSync('/no/such', join(top, 'dangling'));
  symlinkSync('.', join(top, 'loop'));
  chmodSync(join(top, 'deep', 'er'), 0o500);
  chmodSync(top, 0o751);
}

describe('what is copied is what was there', () => {
  test('a tree with modes, symbolic links and names that are no UTF-8, there and back', async () => {
    const tree = local.path('tree');
    makeTree(tree);
    await local.agent.copyIn(tree, local.path('inside'));
    expect(listing(local.path('inside'))).toEqual(listing(tree));
    await local.agent.copyOut(local.path('inside'), local.path('back'));
    expect(listing(local.path('back'))).toEqual(listing(tree));
    expect(leftovers(local.directory)).toEqual([]);
  });

  test.each([0, 1, 131_071, 131_072, 131_073, 10 * MIB + 3])('a file of %d bytes, there and back', async (size) => {
    const content = randomBytes(size);
    writeFileSync(local.path('a'), content);
    await local.agent.copyIn(local.path('a'), local.path('b'));
    await local.agent.copyOut(local.path('b'), local.path('c'));
    expect(readFileSync(local.path('b')).equals(content)).toBe(true);
    expect(readFileSync(local.path('c')).equals(content)).toBe(true);
  });

  test('set-user-id goes into the guest and does not come out of it', async () => {
    writeFileSync(local.path('a'), '');
    chmodSync(local.path('a'), 0o4755);
    await local.agent.copyIn(local.path('a'), local.path('b'));
    expect(lstatSync(local.path('b')).mode & 0o7777).toBe(0o4755);
    await local.agent.copyOut(local.path('b'), local.path('c'));
    expect(lstatSync(local.path('c')).mode & 0o7777).toBe(0o755);
  });

  test('progress counts bytes and entries', async () => {
    makeTree(local.path('tree'));
    const heard: CopyProgress[] = [];
    const onProgress = (progress: CopyProgress): void => {
      heard.push(progress);
    };
    await local.agent.copyIn(local.path('tree'), local.path('a'), { onProgress });
    const whole = { bytes: 25, entries: 11 };
    expect(heard.at(-1)).toEqual(whole);
    await local.agent.copyOut(local.path('a'), local.path('b'), { onProgress });
    expect(heard.at(-1)).toEqual(whole);
  });

  test('the checksum is that of zip', () => {
    expect(crc32(Buffer.from('123456789'))).toBe(0xcbf43926);
    expect(crc32(Buffer.from('6789'), crc32(Buffer.from('12345')))).toBe(0xcbf43926);
  });
});

describe('names that are taken', () => {
  test('a file replaces a file or a symbolic link, whole', async () => {
    writeFileSync(local.path('new'), 'new');
    for (const [name, make] of [
      ['file', (path: string) => writeFileSync(path, 'old')],
      ['link', (path: string) => symlinkSync('new', path)],
    ] as const) {
      make(local.path(name));
      await local.agent.copyIn(local.path('new'), local.path(name));
      expect(lstatSync(local.path(name)).isFile()).toBe(true);
      expect(readFileSync(local.path(name), 'utf8')).toBe('new');
      make(local.path(`${name}-out`));
      await local.agent.copyOut(local.path('new'), local.path(`${name}-out`));
      expect(readFileSync(local.path(`${name}-out`), 'utf8')).toBe('new');
    }
  });

  test('a folder replaces an empty one only: EXISTS', async () => {
    makeTree(local.path('tree'));
    mkdirSync(local.path('empty'));
    await local.agent.copyIn(local.path('tree'), local.path('empty'));
    mkdirSync(local.path('full'));
    writeFileSync(local.path('full/mine'), 'mine');
    writeFileSync(local.path('file'), 'mine');
    const before = listing(local.path('full'));
    for (const copy of ['copyIn', 'copyOut'] as const) {
      const side = copy === 'copyIn' ? 'guest' : 'host';
      for (const name of ['full', 'file']) {
        const copying = local.agent[copy](local.path('tree'), local.path(name));
        await expect(copying).rejects.toMatchObject({ code: 'EXISTS', side });
      }
      const copying = local.agent[copy](local.path('file'), local.path('full'));
      await expect(copying).rejects.toMatchObject({ code: 'EXISTS', side });
    }
    expect(listing(local.path('full'))).toEqual(before);
    expect(leftovers(local.directory)).toEqual([]);
  });

  test.each(['/', '/.', '..'])('%s is no final name', async (path) => {
    writeFileSync(local.path('a'), '');
    await expect(local.agent.copyIn(local.path('a'), path)).rejects.toMatchObject({ code: 'EXISTS' });
  });
});

describe('what cannot be copied', () => {
  test('a path that is not there says on which side', async () => {
    const missing = local.path('missing');
    const inside = local.path('no/such/folder');
    writeFileSync(local.path('a'), '');
    const rejects = async (copying: Promise<void>, side: string): Promise<void> => {
      await expect(copying).rejects.toMatchObject({ code: 'PATH_NOT_FOUND', side });
    };
    await rejects(local.agent.copyIn(missing, local.path('b')), 'host');
    await rejects(local.agent.copyIn(local.path('a'), inside), 'guest');
    await rejects(local.agent.copyOut(missing, local.path('b')), 'guest');
    await rejects(local.agent.copyOut(local.path('a'), inside), 'host');
    expect(leftovers(local.directory)).toEqual([]);
  });

  test('a FIFO in a tree is UNSUPPORTED_FILE, and nothing of the tree stays', async () => {
    makeTree(local.path('tree'));
    execFileSync('mkfifo', [local.path('tree/zz')]);
    await expect(local.agent.copyIn(local.path('tree'), local.path('b'))).rejects.toMatchObject({
      code: 'UNSUPPORTED_FILE',
      side: 'host',
    });
    await expect(local.agent.copyOut(local.path('tree'), local.path('b'))).rejects.toMatchObject({
      code: 'UNSUPPORTED_FILE',
      side: 'guest',
    });
    await clean(local.directory);
  });

  test('an abort leaves nothing behind: ABORTED', async () => {
    mkdirSync(local.path('tree'));
    for (let index = 0; index < 20; index++) writeFileSync(local.path(`tree/${index}`), Buffer.alloc(MIB));
    for (const copy of ['copyIn', 'copyOut'] as const) {
      const stop = new AbortController();
      const copying = local.agent[copy](local.path('tree'), local.path('b'), {
        signal: stop.signal,
        onProgress: ({ bytes }) => {
          if (bytes >= 5 * MIB) stop.abort();
        },
      });
      await expect(copying).rejects.toMatchObject({ code: 'ABORTED' });
      await clean(local.directory);
      expect(readdirSync(local.directory)).not.toContain('b');
    }
  });

  test('a guest that sends more than maxBytes is cut off: TOO_LARGE', async () => {
    writeFileSync(local.path('a'), Buffer.alloc(MIB));
    const copying = local.agent.copyOut(local.path('a'), local.path('b'), { maxBytes: MIB - 1 });
    await expect(copying).rejects.toMatchObject({ code: 'TOO_LARGE' });
    expect(leftovers(local.directory)).toEqual([]);
    await local.agent.copyOut(local.path('a'), local.path('b'), { maxBytes: MIB });
  });
});

// Where nothing may be skipped, it fails without root.
const asRoot = process.getuid?.() === 0 || process.env['CI'] === 'true' ? describe : describe.skip;

asRoot('a full disk (needs root, for a tmpfs)', () => {
  let disk = '';
  beforeEach(() => {
    disk = local.path('disk');
    mkdirSync(disk);
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=2m', 'tsvmm-test', disk]);
  });
  afterEach(() => {
    execFileSync('umount', [disk]);
  });

  test.each(['copyIn', 'copyOut'] as const)('%s: DISK_FULL, and nothing stays', async (copy) => {
    mkdirSync(local.path('tree'));
    for (let index = 0; index < 8; index++) writeFileSync(local.path(`tree/${index}`), Buffer.alloc(MIB));
    await expect(local.agent[copy](local.path('tree'), join(disk, 'b'))).rejects.toMatchObject({
      code: 'DISK_FULL',
      side: copy === 'copyIn' ? 'guest' : 'host',
      errno: 28,
    });
    expect(readdirSync(disk)).toEqual([]);
    // The agent is none the worse for it.
    await local.agent[copy](local.path('tree/0'), join(disk, 'b'));
    expect(lstatSync(join(disk, 'b')).size).toBe(MIB);
  });
});

/** Settles when no copy leaves anything in a folder: the agent clears up when it has seen that the host is gone. */
async function clean(folder: string): Promise<void> {
  const watcher = watch(folder);
  try {
    while (leftovers(folder).length > 0) await once(watcher, 'change');
  } finally {
    watcher.close();
  }
}
