// Load that hurts, against a real VM: a burst of clients far beyond what anybody serves at a time.

import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { GIB } from '../../../src/platform/units.js';
import { describeKvm } from '../../support/kvm.js';
import { eventually, openDescriptors } from '../../support/process-state.js';
import { testConfig, withVm } from '../../support/vms.js';

const ECHO_PORT = 7;
const BURST = 5000;
/** What else this process needs. */
const SPARE_DESCRIPTORS = 500;

let directory = '';
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), 'tsvmm-faults-'));
});
afterAll(() => {
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
