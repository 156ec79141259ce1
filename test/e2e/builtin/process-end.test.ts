// A user's program that ends with VMs running: it does end, with its own exit code, and nothing of the VMs is left.

import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { Command, endCommands } from '../../support/command.js';
import { describeKvm } from '../../support/kvm.js';
import { Random } from '../../support/random.js';

const PROGRAM = fileURLToPath(new URL('../../support/ending-program.js', import.meta.url));

let directory = '';
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'tsvmm-process-end-'));
});
afterEach(async () => {
  await endCommands();
  rmSync(directory, { recursive: true });
});

/** The exit status of the program, of which nothing may be left. */
async function statusOf(how: string, moment = 0): Promise<{ status: number | string | null; stderr: string }> {
  const program = new Command(process.execPath, [PROGRAM, how, directory, String(moment)]);
  const status = await program.status;
  expect(program.hasGroup()).toBe(false);
  expect({ how, moment, left: readdirSync(directory) }).toEqual({ how, moment, left: [] });
  return { status, stderr: program.output.stderr };
}

describeKvm('a program that ends', () => {
  test.each(['exit', 'exit-paused', 'exit-unstarted', 'exit-stopping', 'using-throws', 'caught-listener'])(
    'its own way, %s, does so with its exit code',
    async (how) => {
      expect(await statusOf(how)).toEqual({ status: 5, stderr: '' });
    },
  );

  test.each(['uncaught', 'rejection', 'listener', 'console-listener'])(
    'of an exception that nobody catches, %s, says so',
    async (how) => {
      const { status, stderr } = await statusOf(how);
      expect(stderr).toContain('Error: nobody catches this');
      expect(status).toBe(1);
    },
  );

  test('at any moment of making, starting and stopping VMs leaves nothing behind', async () => {
    const random = new Random(6);
    for (let round = 0; round < 15; round++) expect((await statusOf('exit-at', random.below(700))).status).toBe(5);
  }, 120_000);
});
