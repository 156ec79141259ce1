// The agent's half on the host with the built-in guest, which has no agent; and `tsvmm run` where there is nothing to run.

import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { expect, test } from '@jest/globals';
import { Vm } from '../../../src/index.js';
import { describeKvm } from '../../support/kvm.js';
import { testConfig, withVm } from '../../support/vms.js';

const MAIN = fileURLToPath(new URL('../../../src/cli/main.js', import.meta.url));

describeKvm('a VM without an agent', () => {
  test('says AGENT_MISSING while it runs, and GUEST_GONE when it has ended', async () => {
    await withVm(testConfig({ vsock: { cid: 3 } }), async (vm, console) => {
      const { agent } = vm;
      expect(vm.agent).toBe(agent);
      await console.waitFor(/> /, 20_000);
      await expect(agent.run(['true'])).rejects.toMatchObject({ code: 'AGENT_MISSING' });
      const ready = agent.waitReady();
      const stopped = vm.stop();
      await expect(ready).rejects.toMatchObject({ code: 'GUEST_GONE' });
      await stopped;
      await expect(agent.waitReady()).rejects.toMatchObject({ code: 'GUEST_GONE' });
      await expect(agent.run(['true'])).rejects.toMatchObject({ code: 'GUEST_GONE' });
    });
  });

  test('has no agent at all without vsock', async () => {
    const vm = await Vm.create(testConfig());
    expect(() => vm.agent).toThrow(/no vsock device/);
    await vm.stop();
  });

  test.each([
    [['run', '--', 'true'], /the built-in guest runs no programs/],
    [['run', '--kernel', '/no/such/kernel', '--', 'true'], /no\/such\/kernel/],
    [['run', '--kernel', '/no/such/kernel'], /no program is named/],
  ])('tsvmm %j: 125', (args, message) => {
    const { status, stderr } = spawnSync(process.execPath, [MAIN, ...args], { encoding: 'utf8', timeout: 60_000 });
    expect(stderr).toMatch(message);
    expect(status).toBe(125);
  });
});
