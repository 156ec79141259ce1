// What `tsvmm doctor` prints, and its exit status.

import { describe, expect, test } from '@jest/globals';
import { runDoctor } from '../../src/cli/doctor.js';
import { VmError } from '../../src/vmm/errors.js';
import { fakeHost } from '../support/fake-host.js';

const noKvm = () => Promise.reject(new VmError('KVM_NOT_FOUND', '/dev/kvm does not exist', 'load the module'));

describe('tsvmm doctor', () => {
  test('a line for each check, then the verdict', async () => {
    const { stdout, status } = await runDoctor(false, fakeHost());
    const lines = stdout.trimEnd().split('\n');
    expect(lines.at(-1)).toBe('A VM can run here.');
    expect(lines.slice(0, -1).every((line) => line.startsWith('ok  '))).toBe(true);
    expect(status).toBe(0);
  });

  test('a problem comes with its mend, and gives status 3', async () => {
    const { stdout, status } = await runDoctor(false, fakeHost({ openKvm: noKvm }));
    expect(stdout).toMatch(/^problem {2}kvm +\/dev\/kvm does not exist; load the module$/m);
    expect(stdout).toContain('No VM can run here');
    expect(status).toBe(3);
  });

  test('--json has the same findings for programs', async () => {
    const { stdout, status } = await runDoctor(true, fakeHost({ openKvm: noKvm }));
    expect(JSON.parse(stdout)).toMatchObject({
      usable: false,
      checks: expect.arrayContaining([
        { name: 'kvm', status: 'problem', detail: '/dev/kvm does not exist', mend: 'load the module' },
      ]),
    });
    expect(status).toBe(3);
  });
});
