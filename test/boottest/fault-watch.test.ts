// What a kernel in trouble prints is found, and what only looks like it is not.

import { describe, expect, test } from '@jest/globals';
import { FaultWatch, type Fault } from '../../src/boottest/fault-watch.js';

function faultsIn(text: string, allow: readonly (string | RegExp)[] = [], size = text.length): Fault[] {
  const faults: Fault[] = [];
  const watch = new FaultWatch(allow, (fault) => faults.push(fault));
  const bytes = Buffer.from(text);
  for (let position = 0; position < bytes.length; position += size)
    watch.feed(bytes.subarray(position, position + size));
  watch.end();
  return faults;
}

describe('trouble of the kernel', () => {
  test.each([
    '[    1.234567] Kernel panic - not syncing: VFS: Unable to mount root fs',
    '[    1.234567] BUG: kernel NULL pointer dereference, address: 0000000000000000',
    '[   12.345678][    T1] BUG: KASAN: use-after-free in foo+0x1/0x2',
    '[    1.234567] WARNING: CPU: 0 PID: 1 at kernel/fork.c:1 copy_process+0x1/0x2',
    '[    1.234567] WARNING: possible circular locking dependency detected',
    '[    1.234567] Oops: 0002 [#1] PREEMPT SMP NOPTI',
    '[    1.234567] Oops: general protection fault, probably for non-canonical address 0x1: 0000 [#1]',
    '[    1.234567] general protection fault: 0000 [#1] SMP',
    '[    1.234567] invalid opcode: 0000 [#1] PREEMPT SMP',
    '[    1.234567] watchdog: BUG: soft lockup - CPU#1 stuck for 26s! [swapper/1:0]',
    '[    1.234567] rcu: INFO: rcu_sched self-detected stall on CPU',
    '[    1.234567] rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:',
    '[    1.234567] INFO: task swapper/0:1 blocked for more than 120 seconds.',
    '[    1.234567] UBSAN: shift-out-of-bounds in kernel/x.c:1:2',
    'BUG: unable to handle page fault for address: ffff888000000000',
    '/ # [    1.234567] BUG: scheduling while atomic',
    '\u001b[1;31m[    1.234567] BUG: Bad page state in process init\u001b[0m',
  ])('%s', (line) => {
    const [fault, ...rest] = faultsIn(`before\r\n${line}\r\nafter\r\n`, [], 7);
    expect(rest).toEqual([]);
    expect(line).toContain(fault.line);
    expect(fault.isPanic).toBe(line.includes('panic'));
  });

  test.each([
    '[    1.234567] Debug: a message',
    'make: WARNING: of a program',
    'echo BUG: is no bug',
    '[    1.234567] systemd[1]: WARNING: of a service',
    '[    1.234567] rcu: Hierarchical RCU implementation.',
    '[    1.234567] panic=-1',
  ])('%s is none', (line) => {
    expect(faultsIn(`${line}\n`)).toEqual([]);
  });

  test('that is allowed is passed over, the rest is not', () => {
    const text = '[    1.000000] WARNING: known one\n[    2.000000] BUG: new\n';
    expect(faultsIn(text, ['known one'])).toEqual([{ isPanic: false, line: '[    2.000000] BUG: new' }]);
    expect(faultsIn(text, [/known \w+$/, /BUG: n/])).toEqual([]);
  });

  test('is found in a line that was not ended', () => {
    expect(faultsIn('Kernel panic - not syncing')).toHaveLength(1);
    expect(faultsIn(`${'.'.repeat(20_000)}Kernel panic - not syncing${'.'.repeat(100)}`)).toHaveLength(1);
  });
});
