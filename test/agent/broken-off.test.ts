// Copies and programs that break off, by the caller, by the guest's end, or by what happens to the files meanwhile: an AgentError,
// in bounded time, and nothing under the final name or a temporary one.

import { execFileSync } from 'node:child_process';
import {
  appendFileSync,
  chmodSync,
  chownSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { once } from 'node:events';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import type { AgentError } from '../../src/agent/errors.js';
import { LocalAgent } from '../support/local-agent.js';
import { eventually } from '../support/process-state.js';

const MIB = 1024 * 1024;
const NOBODY = 65_534;
const COPIES = ['copyIn', 'copyOut'] as const;

let local: LocalAgent;
let tree = '';
let target = '';
beforeEach(async () => {
  local = await LocalAgent.start();
  tree = local.path('tree');
  target = local.path('target');
  mkdirSync(local.path('tree/closed'), { recursive: true });
  for (let index = 0; index < 6; index++) writeFileSync(local.path(`tree/${index}`), Buffer.alloc(MIB, index));
  writeFileSync(local.path('tree/closed/file'), 'x');
  symlinkSync('closed/file', local.path('tree/link'));
  chmodSync(local.path('tree/closed'), 0o500);
});
afterEach(async () => {
  await local.stop();
});

/** Neither name is there. The agent clears up when it has seen that the host is gone. */
async function nothingStays(): Promise<void> {
  const names = (): string[] => readdirSync(local.directory).filter((name) => /^target|^\.tsvmm/.test(name));
  await eventually('nothing of the copy is left', () => names().length === 0);
  await eventually('no session is left', () => local.processes === 2);
}

/** The code of the AgentError that `request` ends with; 'done' without one. Fails for any other error. */
async function outcome(request: Promise<unknown>): Promise<string> {
  const error = (await request.then(
    () => undefined,
    (reason: unknown) => reason,
  )) as AgentError | undefined;
  if (error === undefined) return 'done';
  expect(error).toMatchObject({ name: 'AgentError' });
  return error.code;
}

async function turns(count: number): Promise<void> {
  for (let turn = 0; turn < count; turn++) await new Promise(setImmediate);
}

describe('an AbortSignal', () => {
  test.each(COPIES)(
    'at any turn of a %s: ABORTED and nothing, or done and whole',
    async (copy) => {
      const seen = new Set<string>();
      for (let turn = 0; turn < 400 && !(seen.has('done') && turn > 60); turn += 1 + Math.floor(turn / 8)) {
        const stop = new AbortController();
        const copying = outcome(local.agent[copy](tree, target, { signal: stop.signal }));
        await turns(turn);
        stop.abort();
        const result = await copying;
        seen.add(result);
        expect(['done', 'ABORTED']).toContain(result);
        await eventually('the session is over', () => local.processes <= 2);
        // A copy into the guest may be whole there before it could say so, and the signal came first.
        if (existsSync(target)) {
          expect(copy === 'copyIn' || result === 'done').toBe(true);
          expect(readFileSync(local.path('target/5')).equals(Buffer.alloc(MIB, 5))).toBe(true);
          rmSync(target, { recursive: true });
        } else expect(result).toBe('ABORTED');
        await nothingStays();
      }
      expect(seen).toContain('ABORTED');
      expect(await outcome(local.agent[copy](tree, target, { signal: AbortSignal.abort() }))).toBe('ABORTED');
      await nothingStays();
    },
    60_000,
  );

  test('at any turn of a program: ABORTED, or done', async () => {
    for (let turn = 0; turn < 60; turn++) {
      const stop = new AbortController();
      const running = outcome(
        local.agent.run(['sh', '-c', 'cat; sleep 0.01'], { signal: stop.signal, stdin: Buffer.alloc(100_000) }),
      );
      await turns(turn);
      stop.abort();
      expect(['done', 'ABORTED']).toContain(await running);
    }
    await nothingStays();
  }, 60_000);
});

describe('a guest that is gone', () => {
  test.each(COPIES)(
    'at any turn of a %s: GUEST_GONE and nothing, or done and whole',
    async (copy) => {
      const seen = new Set<string>();
      for (let turn = 0; turn < 400 && !(seen.has('done') && turn > 60); turn += 1 + Math.floor(turn / 8)) {
        const copying = outcome(local.agent[copy](tree, target));
        await turns(turn);
        local.transport.hangUp();
        const result = await copying;
        seen.add(result);
        expect(['done', 'GUEST_GONE']).toContain(result);
        // A copy into the guest may be whole there though nobody could say so any more.
        await eventually('the session is over', () => local.processes <= 2);
        if (existsSync(target)) {
          expect(readdirSync(target).length).toBe(readdirSync(tree).length);
          expect(copy === 'copyIn' || result === 'done').toBe(true);
          rmSync(target, { recursive: true });
        }
        await nothingStays();
      }
      expect(seen).toContain('GUEST_GONE');
    },
    60_000,
  );

  test('whose agent is killed while it is connected to is AGENT_MISSING or GUEST_GONE, and there again with the next', async () => {
    await local.killAgent();
    expect(await outcome(local.agent.run(['true']))).toMatch(/AGENT_MISSING|GUEST_GONE/);
    for (const copy of COPIES) expect(await outcome(local.agent[copy](tree, target))).toMatch(/AGENT_MISSING/);
    rmSync(local.socketPath);
    await local.spawnAgent();
    expect(await outcome(local.agent.copyIn(tree, target))).toBe('done');
  });
});

describe('files that are not what they were', () => {
  test('one that vanishes after its folder was listed is PATH_NOT_FOUND, with its name', async () => {
    const gone = local.path('tree/5');
    const copying = local.agent.copyIn(tree, target, {
      onProgress: () => {
        rmSync(gone, { force: true });
      },
    });
    await expect(copying).rejects.toMatchObject({
      code: 'PATH_NOT_FOUND',
      side: 'host',
      message: expect.stringContaining(gone) as unknown,
    });
    await nothingStays();
  });

  test('one that becomes a FIFO or a link to elsewhere is not followed', async () => {
    for (const make of [
      (path: string) => execFileSync('mkfifo', [path]),
      (path: string) => {
        symlinkSync('/etc/passwd', path);
      },
    ]) {
      const changing = local.path('tree/5');
      rmSync(changing, { force: true });
      writeFileSync(changing, 'x');
      let changed = false;
      const copying = local.agent.copyIn(tree, target, {
        onProgress: () => {
          if (changed) return;
          changed = true;
          rmSync(changing);
          make(changing);
        },
      });
      const result = await outcome(copying);
      if (result === 'done') expect(lstatSync(local.path('target/5')).isSymbolicLink()).toBe(true);
      else expect(result).toBe('UNSUPPORTED_FILE');
      rmSync(target, { recursive: true, force: true });
      await nothingStays();
    }
  });

  test('one that grows or is replaced while it is read is copied as it was read', async () => {
    const growing = local.path('tree/3');
    let grown = false;
    await local.agent.copyIn(tree, target, {
      onProgress: () => {
        if (grown) return;
        grown = true;
        appendFileSync(growing, Buffer.alloc(100_000, 3));
        renameSync(local.path('tree/4'), local.path('moved'));
        renameSync(local.path('moved'), local.path('tree/4'));
      },
    });
    const copied = readFileSync(local.path('target/3'));
    expect(copied.every((byte) => byte === 3)).toBe(true);
  });

  test('a socket in a tree is UNSUPPORTED_FILE on both sides', async () => {
    const server = createServer().listen(local.path('tree/socket'));
    await once(server, 'listening');
    for (const copy of COPIES) {
      const side = copy === 'copyIn' ? 'host' : 'guest';
      await expect(local.agent[copy](tree, target)).rejects.toMatchObject({ code: 'UNSUPPORTED_FILE', side });
    }
    server.close();
    await nothingStays();
  });

  test('/dev/null and other devices are UNSUPPORTED_FILE', async () => {
    expect(await outcome(local.agent.copyIn('/dev/null', target))).toBe('UNSUPPORTED_FILE');
    expect(await outcome(local.agent.copyOut('/dev/zero', target))).toBe('UNSUPPORTED_FILE');
    await nothingStays();
  });

  test('folders deeper than 128 are UNSUPPORTED_FILE on both sides', async () => {
    mkdirSync(local.path(`deep/${Array<string>(130).fill('d').join('/')}`), { recursive: true });
    for (const copy of COPIES) {
      expect(await outcome(local.agent[copy](local.path('deep'), target))).toBe('UNSUPPORTED_FILE');
    }
    await nothingStays();
  });
});

describe('paths', () => {
  test.each(['new\nline', 'esc\u001b[2J', ' leading', '-n', 'grüße \u{1f600}', 'x'.repeat(255)])(
    '%j is a name as any other',
    async (name) => {
      writeFileSync(local.path('source'), name);
      await local.agent.copyIn(local.path('source'), local.path(name));
      await local.agent.copyOut(local.path(name), target);
      expect(readFileSync(target, 'utf8')).toBe(name);
    },
  );

  test('those that are too long are errors of the side that they are on', async () => {
    const long = local.path('x'.repeat(256));
    await expect(local.agent.copyIn('/etc/passwd', long)).rejects.toMatchObject({ side: 'guest' });
    await expect(local.agent.copyOut(long, target)).rejects.toMatchObject({ side: 'guest' });
    await expect(local.agent.copyOut('/etc/passwd', long)).rejects.toMatchObject({ side: 'host' });
    const longer = `/${'x/'.repeat(3000)}`;
    await expect(local.agent.copyIn('/etc/passwd', longer)).rejects.toMatchObject({ code: 'PATH_NOT_FOUND' });
    await expect(local.agent.copyIn('/etc/passwd', `/${'x'.repeat(200_000)}`)).rejects.toMatchObject({
      code: 'TOO_LARGE',
    });
    await nothingStays();
  });

  test('a NUL in one of the host is a TypeError', async () => {
    await expect(local.agent.copyOut('/etc/passwd', local.path('a\0b'))).rejects.toThrow(TypeError);
    await expect(local.agent.copyIn('/etc/pass\0wd', target)).rejects.toThrow(TypeError);
    await nothingStays();
  });
});

// Where nothing may be skipped, it fails without root.
const asRoot = process.getuid?.() === 0 || process.env['CI'] === 'true' ? describe : describe.skip;

asRoot('a user who may not (needs root, to become one)', () => {
  /** What `action` does as a user who has nothing. */
  async function asNobody<T>(action: () => Promise<T>): Promise<T> {
    process.seteuid?.(NOBODY);
    try {
      return await action();
    } finally {
      process.seteuid?.(0);
    }
  }

  test('read a file in the middle of a tree, on the host: IO with EACCES, and nothing stays', async () => {
    chmodSync(local.directory, 0o755);
    chmodSync(local.socketPath, 0o777);
    chmodSync(local.path('tree/3'), 0o600);
    const message = expect.stringContaining(local.path('tree/')) as unknown;
    await asNobody(async () => {
      const copying = local.agent.copyIn(tree, target);
      await expect(copying).rejects.toMatchObject({ code: 'IO', side: 'host', errno: 13, message });
    });
    await nothingStays();
  });

  test('write where a copy is to be, on the host: IO with EACCES', async () => {
    chmodSync(local.directory, 0o755);
    chmodSync(local.socketPath, 0o777);
    await asNobody(async () => {
      const copying = local.agent.copyOut(tree, target);
      await expect(copying).rejects.toMatchObject({ code: 'IO', side: 'host', errno: 13 });
    });
    await nothingStays();
  });

  test('a copy that such a user breaks off is gone, folders that may not be written to and all', async () => {
    chownSync(local.directory, NOBODY, NOBODY);
    chmodSync(local.socketPath, 0o777);
    await asNobody(async () => {
      const copying = local.agent.copyOut(tree, target, { maxBytes: 6 * MIB });
      await expect(copying).rejects.toMatchObject({ code: 'TOO_LARGE' });
    });
    await nothingStays();
  });

  test.each(COPIES)('write to a file system that is read-only: %s is IO with EROFS', async (copy) => {
    const mounted = local.path('mounted');
    mkdirSync(mounted);
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'ro', 'tsvmm-test', mounted]);
    try {
      const side = copy === 'copyIn' ? 'guest' : 'host';
      const copying = local.agent[copy]('/etc/passwd', local.path('mounted/file'));
      await expect(copying).rejects.toMatchObject({ code: 'IO', side, errno: 30 });
    } finally {
      execFileSync('umount', [mounted]);
    }
  });
});
