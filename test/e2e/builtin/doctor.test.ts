// `tsvmm doctor` on the real host: it finds that a VM can run, having run one, and leaves nothing behind.

import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from '@jest/globals';
import type { Diagnosis } from '../../../src/vmm/doctor/checks.js';
import { describeKvm } from '../../support/kvm.js';

const MAIN = fileURLToPath(new URL('../../../src/cli/main.js', import.meta.url));

describeKvm('tsvmm doctor', () => {
  test('runs a guest, and says that one can run', () => {
    const directory = mkdtempSync(join(tmpdir(), 'tsvmm-doctor-'));
    try {
      const { status, stdout, stderr } = spawnSync(process.execPath, [MAIN, 'doctor', '--json'], {
        env: { ...process.env, TMPDIR: directory },
        encoding: 'utf8',
      });
      expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
      const { usable, checks } = JSON.parse(stdout) as Diagnosis;
      expect(usable).toBe(true);
      expect(checks).toContainEqual(expect.objectContaining({ name: 'vm', status: 'ok' }));
      expect(checks).toContainEqual(
        expect.objectContaining({ name: 'sockets', status: 'ok', detail: expect.stringContaining(directory) }),
      );
      expect(readdirSync(directory)).toEqual([]);
    } finally {
      rmSync(directory, { recursive: true });
    }
  });
});
