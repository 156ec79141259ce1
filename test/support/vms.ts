// Virtual machines for end-to-end tests.

import { DEFAULT_VM_CONFIG, type VmConfig } from '../../src/config/vm-config.js';
import { MIB } from '../../src/platform/units.js';
import { Vm, type VmExit } from '../../src/vmm/vm.js';

/** A small configuration whose serial output goes to listeners only, and whose guest ends by its reboot. */
export function testConfig(changes: Partial<VmConfig> = {}): VmConfig {
  return { ...DEFAULT_VM_CONFIG, memory: { size: 64 * MIB }, serial: { mode: 'Null' }, no_reboot: true, ...changes };
}

/** Everything a VM's console printed, and waiting for a part of it. */
export class ConsoleRecorder {
  text = '';
  private waiters: (() => void)[] = [];
  private exit: VmExit | undefined;

  constructor(vm: Vm) {
    vm.console.onOutput((bytes) => {
      this.text += Buffer.from(bytes).toString('latin1');
      this.wake();
    });
    void vm.exited.then((exit) => {
      this.exit = exit;
      this.wake();
    });
  }

  /**
   * Resolves when `pattern` has been printed after position `from`; rejects with what was when the VM has ended or after
   * `limitMs`.
   */
  async waitFor(pattern: RegExp, limitMs = 20_000, from = 0): Promise<RegExpExecArray> {
    const deadline = performance.now() + limitMs;
    for (;;) {
      const match = pattern.exec(this.text.slice(from));
      if (match !== null) return match;
      if (this.exit !== undefined) {
        throw new Error(`no ${String(pattern)} before the VM ended (${this.exit.reason}) in:\n${this.text}`);
      }
      const left = deadline - performance.now();
      if (left <= 0) throw new Error(`no ${String(pattern)} within ${limitMs} ms in:\n${this.text}`);
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, left);
        this.waiters.push(() => {
          clearTimeout(timer);
          resolve();
        });
      });
    }
  }

  private wake(): void {
    const { waiters } = this;
    this.waiters = [];
    for (const wake of waiters) wake();
  }
}

/** Creates and starts a VM, and hands it to `body`; it is stopped and gone when the returned promise settles. */
export async function withVm<T>(config: VmConfig, body: (vm: Vm, console: ConsoleRecorder) => Promise<T>): Promise<T> {
  const vm = await Vm.create(config);
  try {
    const console = new ConsoleRecorder(vm);
    await vm.start();
    return await body(vm, console);
  } finally {
    await vm.stop();
  }
}
