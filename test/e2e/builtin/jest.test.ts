// tsvmm/jest in Jest itself: VMs that end with their test or file, and the matcher.

import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { beforeAll, beforeEach, expect, test } from '@jest/globals';
import { bootVm, type Vm } from '../../../src/jest/index.js';
import { describeKvm } from '../../support/kvm.js';

const config = { memory: { size: 64 * 1024 * 1024 } };

describeKvm('bootVm', () => {
  let ofFile: Vm;
  const seen: Vm[] = [];
  beforeAll(async () => {
    ofFile = await bootVm(config);
  });
  beforeEach(async () => {
    seen.push(await bootVm(config));
  });

  test('gives a VM that runs, and toReach waits for what it prints', async () => {
    seen.push(await bootVm(config));
    for (const vm of [...seen, ofFile]) {
      await expect(vm).toReach('type help', { timeout: 20_000 });
      await expect(vm).toReach(/^tsvmm guest \S+, 64 MiB/);
      await expect(vm).not.toReach('login:', { timeout: 1 });
    }
  });

  test('VMs of a test, or of beforeEach, end with it; those of the file do not', async () => {
    expect(seen).toHaveLength(3);
    for (const vm of seen.slice(0, 2)) expect(await vm.exited).toEqual({ reason: 'stopped' });
    await ofFile.console.write(Buffer.from('help\r'));
    await expect(ofFile).toReach('poweroff');
  });

  let late: Promise<Vm> | undefined;
  test('one that is still being booted when its test ends', () => {
    late = bootVm(config);
  });

  test('is stopped, too', async () => {
    const vm = await late;
    expect(await vm?.exited).toEqual({ reason: 'stopped' });
  });

  test('a wrong configuration is told', async () => {
    await expect(bootVm({ memory: { size: 5 } })).rejects.toThrow('memory.size');
  });
});

describeKvm('toReach', () => {
  test('fails with the end of the output: in time, at the end of the VM', async () => {
    const vm = await bootVm(config);
    await expect(vm).toReach('> ');
    await expect(expect(vm).toReach('login:', { timeout: 1 })).rejects.toThrow(
      /the guest has not printed "login:" within 1 ms; the output ends with:\ntsvmm guest/,
    );
    await expect(expect(vm).not.toReach('type help')).rejects.toThrow('has printed "type help", which it should not');
    const waiting = expect(expect(vm).toReach('login:')).rejects.toThrow('has ended without printing "login:"');
    await vm.stop();
    await waiting;
  });

  test('fails at once when the kernel complains, unless that is allowed', async () => {
    const [strict, lax] = [await bootVm(config), await bootVm(config, { allow: [/BUG: known$/] })];
    for (const vm of [strict, lax]) {
      await expect(vm).toReach('> ');
      await vm.console.write(Buffer.from('[    1.000000] BUG: known\r'));
    }
    await expect(expect(strict).toReach('login:')).rejects.toThrow(/instead of "login:": .*BUG: known\ntsvmm guest/);
    await expect(expect(strict).toReach('login:')).rejects.toThrow('BUG: known');
    await expect(lax).toReach('known\r\n');
  });

  test('is for VMs', async () => {
    await expect(expect('text').toReach('x')).rejects.toThrow('toReach is for a VM');
  });

  test('the package has it under its own name, for a test file anywhere', () => {
    const root = fileURLToPath(new URL('../../../../', import.meta.url));
    const directory = mkdtempSync(join(tmpdir(), 'tsvmm-jest-'));
    try {
      const entry = import.meta.resolve('tsvmm/jest');
      writeFileSync(
        join(directory, 'boot.test.mjs'),
        `import { bootVm } from ${JSON.stringify(fileURLToPath(entry))};
         test('boots', async () => { await expect(await bootVm({ vsock: { cid: 3 } })).toReach('type help'); });
         test('fails', async () => { await expect(await bootVm()).toReach('login:', { timeout: 1 }); });`,
      );
      writeFileSync(join(directory, 'package.json'), '{"jest": {"transform": {}, "testMatch": ["**/*.test.mjs"]}}');
      const jest = join(root, 'node_modules/jest/bin/jest.js');
      const child = spawnSync(process.execPath, ['--experimental-vm-modules', jest, '--rootDir', directory], {
        cwd: directory,
        encoding: 'utf8',
      });
      expect(child.stderr).toMatch(/✓ boots[^]*✕ fails[^]*the guest has not printed "login:" within 1 ms/);
      expect(child.stderr).toContain('1 failed, 1 passed');
      expect(child.status).toBe(1);
    } finally {
      rmSync(directory, { recursive: true });
    }
  }, 60_000);
});
