// The power button from Vm.powerButton to the guest's port. What an operating system makes of it, its own tests say.

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { describeKvm } from '../../support/kvm.js';
import { CODE, writeKernel } from '../../support/tiny-kernel.js';
import { testConfig, withVm } from '../../support/vms.js';

let directory = '';
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), 'tsvmm-power-button-'));
});
afterAll(() => {
  rmSync(directory, { recursive: true });
});

describeKvm('the power button', () => {
  test('a guest with ACPI sees that it was pressed', async () => {
    const config = testConfig({ payload: { kernel: writeKernel(directory, CODE.powerOffAtButton) } });
    const exit = await withVm(config, (vm) => {
      vm.powerButton();
      return vm.exited;
    });
    expect(exit).toEqual({ reason: 'shutdown' });
  });

  test('it is refused where the guest cannot hear of it', async () => {
    await withVm(testConfig(), (vm) => {
      expect(() => {
        vm.powerButton();
      }).toThrow(
        expect.objectContaining({ code: 'NO_POWER_BUTTON', message: expect.stringMatching(/built-in/) as unknown }),
      );
      return Promise.resolve();
    });
    const payload = { kernel: writeKernel(directory, CODE.halt), cmdline: 'acpi=off' };
    await withVm(testConfig({ payload }), async (vm) => {
      expect(() => {
        vm.powerButton();
      }).toThrow(/acpi=off .* has no power button; stop it instead/);
      await vm.stop();
      expect(() => {
        vm.powerButton();
      }).toThrow(/does not run cannot have its power button pressed/);
    });
  });
});
