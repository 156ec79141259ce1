/**
 * VMs in tests of Jest: what `import ... from 'tsvmm/jest'` gives ([docs/boot-tests.md](../boot-tests.md)). Importing it adds
 * `expect(vm).toReach(pattern)` and stops every VM of `bootVm` when its test, or its file, is over.
 *
 * @module jest
 */

// Main thread, inside Jest's own modules of one test file. Jest is not needed by anything else here, and not installed by it:
// whoever imports this has it. `@jest/globals` is what Jest puts in place of an import of that name.

import { afterAll, afterEach, beforeEach, expect } from '@jest/globals';
import { FaultWatch } from '../boottest/fault-watch.js';
import type { VmConfigInput } from '../config/vm-config.js';
import { ConsoleError, showPattern } from '../vmm/consoles/console-error.js';
import { Vm, type VmOptions } from '../vmm/vm.js';

/** How to boot a VM for a test. */
export interface BootOptions extends VmOptions {
  /** Lines of the console in which the kernel complains and that are no failure, as in specs of boot tests. */
  readonly allow?: readonly (string | RegExp)[] | undefined;
}

/** How long `toReach` waits. */
export interface ReachOptions {
  /** Milliseconds; 60,000 unless told. Jest's own limit, 5 seconds at first, must be longer (`jest.setTimeout`). */
  readonly timeout?: number | undefined;
}

/**
 * What `expect(vm)` can do besides. TypeScript finds it where `expect` is installed: npm puts it beside Jest, with pnpm it is to be
 * installed by name.
 */
export interface VmMatchers<R> {
  /**
   * Waits until the console of the VM has printed `pattern`, since its first byte. Fails, with the end of the output, when
   * it does not in time, when the VM ends, and at once when the kernel panics or complains.
   */
  toReach(pattern: string | RegExp, options?: ReachOptions): Promise<R>;
}

// Where Jest declares its own.
declare module 'expect' {
  // eslint-disable-next-line @typescript-eslint/no-unused-vars, @typescript-eslint/no-empty-object-type -- as there
  interface Matchers<R extends void | Promise<void>, T = unknown> extends VmMatchers<R> {}
}

declare global {
  // eslint-disable-next-line @typescript-eslint/no-namespace -- where @types/jest has it
  namespace jest {
    // eslint-disable-next-line @typescript-eslint/no-unused-vars, @typescript-eslint/no-empty-object-type -- as there
    interface Matchers<R, T = {}> extends VmMatchers<R> {}
  }
}

const DEFAULT_TIMEOUT_MS = 60_000;
/** How long Jest lets the end of VMs take; they are bound to end well before. */
const STOP_LIMIT_MS = 30_000;

/** A VM and the first thing its kernel complained about. */
interface Watched {
  fault: string | undefined;
  readonly onFault: Set<(line: string) => void>;
}

const watched = new WeakMap<Vm, Watched>();
/** VMs that end with the test, and with the file; some may still be on their way. */
const ofTest = new Set<Promise<Vm>>();
const ofFile = new Set<Promise<Vm>>();
let inTest = false;

beforeEach(() => {
  inTest = true;
});
afterEach(async () => {
  inTest = false;
  await stopAll(ofTest);
}, STOP_LIMIT_MS);
afterAll(() => stopAll(ofFile), STOP_LIMIT_MS);

/**
 * Makes and starts a VM. It is stopped after the test that it was booted in, or after the test file when that was in
 * `beforeAll` or outside of tests. Its consoles go nowhere and a reboot ends it, unless the configuration says otherwise.
 * Rejects with what `Vm.create` rejects with.
 *
 * @param config as for `Vm.create`
 * @param options `allow`, and what `Vm.create` takes
 * @returns a VM whose guest runs
 * @example
 * ```ts
 * import { expect, test } from '@jest/globals';
 * import { bootVm } from 'tsvmm/jest';
 *
 * test('the kernel reaches a login prompt', async () => {
 *   const vm = await bootVm({ payload: { kernel: 'vmlinux', initramfs: 'root.cpio.gz' } });
 *   await expect(vm).toReach('login:', { timeout: 30_000 });
 * }, 60_000);
 * ```
 */
export function bootVm(config: VmConfigInput = {}, { allow = [], ...options }: BootOptions = {}): Promise<Vm> {
  const booting = boot({ serial: { mode: 'Null' }, no_reboot: true, ...config }, allow, options);
  (inTest ? ofTest : ofFile).add(booting);
  return booting;
}

async function boot(config: VmConfigInput, allow: readonly (string | RegExp)[], options: VmOptions): Promise<Vm> {
  const vm = await Vm.create(config, options);
  const state: Watched = { fault: undefined, onFault: new Set() };
  watched.set(vm, state);
  const report = (line: string): void => {
    state.fault ??= line;
    for (const listener of state.onFault) listener(line);
  };
  for (const console of Object.values<Vm['console'] | undefined>({ ...vm.consoles })) {
    if (console === undefined) continue;
    const watch = new FaultWatch(allow, ({ line }) => {
      report(line);
    });
    console.onOutput((bytes) => {
      watch.feed(bytes);
    });
  }
  vm.events.on('panicked', () => {
    report('the guest panicked');
  });
  try {
    await vm.start();
    return vm;
  } catch (error) {
    await vm.stop();
    throw error;
  }
}

async function stopAll(vms: Set<Promise<Vm>>): Promise<void> {
  const all = [...vms];
  vms.clear();
  // One that could not be booted has told its test.
  await Promise.allSettled(all.map(async (booting) => (await booting).stop()));
}

expect.extend({
  async toReach(received: unknown, pattern: string | RegExp, { timeout = DEFAULT_TIMEOUT_MS }: ReachOptions = {}) {
    if (!(received instanceof Vm)) throw new TypeError('toReach is for a VM: expect(await bootVm(...)).toReach(...)');
    const problem = await problemOfReaching(received, pattern, timeout);
    return {
      pass: problem === undefined,
      message: () => problem ?? `the guest has printed ${showPattern(pattern)}, which it should not`,
    };
  },
});

/** Undefined when it was reached. */
async function problemOfReaching(vm: Vm, pattern: string | RegExp, timeout: number): Promise<string | undefined> {
  const state = watched.get(vm);
  const controller = new AbortController();
  const onFault = (line: string): void => {
    controller.abort(line);
  };
  state?.onFault.add(onFault);
  try {
    if (state?.fault !== undefined) onFault(state.fault);
    await vm.console.waitFor(pattern, { timeout, signal: controller.signal });
    return undefined;
  } catch (error) {
    if (!(error instanceof ConsoleError)) throw error;
    if (error.code !== 'ABORTED') return error.message;
    return `instead of ${showPattern(pattern)}: ${String(error.cause)}\n${error.tail}`;
  } finally {
    state?.onFault.delete(onFault);
  }
}

export type { Vm } from '../vmm/vm.js';
