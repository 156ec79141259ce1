// Faults against a real VM: a host peer that is killed, a monitor without descriptors, a burst of clients far beyond what
// anybody serves at a time.

import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { GIB } from '../../../src/platform/units.js';
import { describeKvm } from '../../support/kvm.js';
import { eventually, openDescriptors } from '../../support/process-state.js';
import { connectVsock } from '../../support/vsock-client.js';
import { testConfig, withVm } from '../../support/vms.js';

const MONITOR = fileURLToPath(new URL('../../support/vsock-monitor.js', import.meta.url));

const ECHO_PORT = 7;
const CHARGEN_PORT = 19;
const BURST = 5000;
/** What else this process needs. */
const SPARE_DESCRIPTORS = 500;

let directory = '';
/** Ended with the tests in any case: a test that fails by its time limit ends nothing itself. */
const children = new Set<ChildProcess>();
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), 'tsvmm-faults-'));
});
afterAll(() => {
  for (const child of children) child.kill('SIGKILL');
  rmSync(directory, { recursive: true });
});

/** A burst as large as descriptors allow: both ends of every connection are in this process. */
function burstSize(): number {
  const limit = Number(/Max open files +(\d+)/.exec(readFileSync('/proc/self/limits', 'utf8'))?.[1]);
  return Math.min(BURST, Math.floor((limit - SPARE_DESCRIPTORS) / 2));
}

type Outcome = 'echoed' | 'refused';

/** Sends `text` to the guest's echo service; rejects when what comes back is anything but all of it, or nothing. */
function echo(path: string, text: string): Promise<Outcome> {
  return new Promise((resolve, reject) => {
    const socket = connect({ path, allowHalfOpen: true });
    let answer = '';
    // Refused before or after the connection was made: a full backlog, or the cap on connections.
    socket.on('error', (error: NodeJS.ErrnoException) => {
      if (answer === '' && ['EAGAIN', 'ECONNRESET', 'EPIPE'].includes(error.code ?? '')) resolve('refused');
      else reject(error);
    });
    socket.on('data', (piece) => (answer += piece.toString('latin1')));
    socket.on('end', () => {
      socket.destroy();
      if (answer === '') resolve('refused');
      else if (/^OK \d+\n/.exec(answer)?.[0].concat(text) === answer) resolve('echoed');
      else reject(new Error(`${JSON.stringify(text)} came back as ${JSON.stringify(answer)}`));
    });
    socket.end(`CONNECT ${ECHO_PORT}\n${text}`);
  });
}

/** A process that reads from the guest's character generator until it is killed. */
const READER = `
  const socket = require('node:net').connect(process.argv[1]);
  let lines = 0;
  socket.on('data', () => { if (++lines === 2) process.stdout.write('reading\\n'); });
  socket.write('CONNECT ${CHARGEN_PORT}\\n');
`;

describeKvm('a host peer killed in the middle', () => {
  test('another connection goes on, and so does a fresh one', async () => {
    const path = join(directory, 'killed.vsock');
    await withVm(testConfig({ vsock: { cid: 3, socket: path } }), async (_vm, console) => {
      await console.waitFor(/> $/);
      const other = await connectVsock(path, ECHO_PORT);
      other.resume();
      for (let round = 0; round < 3; round++) {
        const child = spawn(process.execPath, ['-e', READER, path], { stdio: ['ignore', 'pipe', 'inherit'] });
        children.add(child);
        const exited = once(child, 'exit');
        await once(child.stdout, 'data');
        child.kill('SIGKILL');
        await exited;
        const answer = once(other, 'data');
        other.write(`round ${round}`);
        expect(String((await answer)[0])).toBe(`round ${round}`);
        expect(await echo(path, 'fresh')).toBe('echoed');
      }
      other.destroy();
    });
  });
});

describeKvm('a monitor that runs out of descriptors', () => {
  test('those that are served go on, the others wait, and all are served in the end', async () => {
    const path = join(directory, 'scarce.vsock');
    const monitor = spawn('prlimit', ['--nofile=100', process.execPath, MONITOR, path], {
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    children.add(monitor);
    const exited = once(monitor, 'exit');
    let complaints = '';
    monitor.stderr.on('data', (bytes: Buffer) => (complaints += bytes.toString('latin1')));
    try {
      await eventually('the guest answers', () => existsSync(path));
      while ((await echo(path, 'up?').catch(() => 'refused')) !== 'echoed');
      const held: Socket[] = [];
      const waiting = new Set<Promise<unknown>>();
      for (let index = 0; index < 150; index++) {
        const client = connectVsock(path, ECHO_PORT);
        waiting.add(client);
        void client.then((socket) => held.push(socket));
      }
      await eventually('descriptors run out', () => complaints.includes('EMFILE'));
      await eventually('those that have a descriptor are served', () => held.length > 10);
      expect(held.length).toBeLessThan(100);
      // One of those served, while the others wait.
      const answer = once(held[0], 'data');
      held[0].resume();
      held[0].write('still here');
      expect(String((await answer)[0])).toBe('still here');
      // They leave one by one, and the others take their place.
      let left = 0;
      await eventually('all are served', () => {
        for (; left < held.length; left++) held[left].destroy();
        return left === 150;
      });
      await Promise.all(waiting);
      expect(await echo(path, 'afterwards')).toBe('echoed');
    } finally {
      monitor.kill('SIGTERM');
      await exited;
    }
  }, 30_000);
});

describeKvm('a burst of 5,000 clients', () => {
  test('each is answered in full or refused, and after that a fresh one works', async () => {
    const path = join(directory, 'burst.vsock');
    await withVm(testConfig({ memory: { size: GIB }, vsock: { cid: 3, socket: path } }), async (_vm, console) => {
      await console.waitFor(/> $/);
      expect(await echo(path, 'first')).toBe('echoed');
      const before = openDescriptors();
      const outcomes = await Promise.all(
        Array.from({ length: burstSize() }, (_, index) => echo(path, `client ${index}`)),
      );
      const echoed = outcomes.filter((outcome) => outcome === 'echoed').length;
      process.stdout.write(`burst: ${echoed} of ${outcomes.length} echoed, the others refused\n`);
      expect(echoed).toBeGreaterThan(0);
      expect(await echo(path, 'last')).toBe('echoed');
      await eventually('all descriptors are given back', () => openDescriptors() <= before);
    });
  }, 60_000);
});
