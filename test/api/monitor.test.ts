// The life of an API server's VM, with VMs that are not real.

import { beforeEach, describe, expect, test } from '@jest/globals';
import { Monitor } from '../../src/api/monitor.js';
import { DEFAULT_VM_CONFIG, type VmConfig } from '../../src/config/vm-config.js';
import { MIB } from '../../src/platform/units.js';
import type { VmExit } from '../../src/vmm/vm.js';
import { FakeFactory } from '../support/fake-vm.js';

let factory = new FakeFactory();
let ends: VmExit[] = [];
let monitor = new Monitor({ factory });

const CONFIG: VmConfig = { ...DEFAULT_VM_CONFIG, memory: { size: 64 * MIB }, balloon: { size: 0 } };

beforeEach(() => {
  factory = new FakeFactory();
  ends = [];
  monitor = new Monitor({ factory, onVmEnd: (end) => ends.push(end) });
});

type State = Monitor['state'];

/** Brings a new monitor into a state by what leads there. */
async function bring(state: State): Promise<void> {
  if (state === 'NotCreated') return;
  await monitor.create(CONFIG);
  if (state === 'Created') return;
  await monitor.boot();
  if (state === 'Paused') await monitor.pause();
  if (state === 'Shutdown') await monitor.shutdownVm();
}

const ACTIONS = {
  create: () => monitor.create(CONFIG),
  boot: () => monitor.boot(),
  restore: () => monitor.restore('/snap', { resume: false, overrides: {} }),
  pause: () => monitor.pause(),
  resume: () => monitor.resume(),
  reboot: () => monitor.reboot(),
  shutdownVm: () => monitor.shutdownVm(),
  delete: () => monitor.delete(),
  powerButton: () => monitor.powerButton(),
  nmi: () => monitor.nmi(),
  snapshot: () => monitor.snapshot('/snap'),
  coredump: () => monitor.coredump('/core'),
  resize: () => monitor.resize({ desired_balloon: 4096 }),
  shutdown: () => monitor.shutdown(),
} as const;

/** From each state: where an action leads, or how it is refused. */
const TABLE: Readonly<Record<keyof typeof ACTIONS, readonly [string, string, string, string, string]>> = {
  // NotCreated, Created, Running, Paused, Shutdown
  create: ['Created', 'ALREADY_CREATED', 'ALREADY_CREATED', 'ALREADY_CREATED', 'ALREADY_CREATED'],
  boot: ['NOT_CREATED', 'Running', 'WRONG_STATE', 'WRONG_STATE', 'Running'],
  restore: ['Paused', 'ALREADY_CREATED', 'ALREADY_CREATED', 'ALREADY_CREATED', 'ALREADY_CREATED'],
  pause: ['NOT_CREATED', 'WRONG_STATE', 'Paused', 'WRONG_STATE', 'WRONG_STATE'],
  resume: ['NOT_CREATED', 'WRONG_STATE', 'WRONG_STATE', 'Running', 'WRONG_STATE'],
  reboot: ['NOT_CREATED', 'WRONG_STATE', 'Running', 'Running', 'WRONG_STATE'],
  shutdownVm: ['NOT_CREATED', 'WRONG_STATE', 'Shutdown', 'Shutdown', 'WRONG_STATE'],
  delete: ['NotCreated', 'NotCreated', 'NotCreated', 'NotCreated', 'NotCreated'],
  powerButton: ['NOT_CREATED', 'WRONG_STATE', 'Running', 'WRONG_STATE', 'WRONG_STATE'],
  nmi: ['NOT_CREATED', 'WRONG_STATE', 'Running', 'Paused', 'WRONG_STATE'],
  snapshot: ['NOT_CREATED', 'WRONG_STATE', 'WRONG_STATE', 'Paused', 'WRONG_STATE'],
  coredump: ['NOT_CREATED', 'WRONG_STATE', 'Running', 'Paused', 'WRONG_STATE'],
  resize: ['NOT_CREATED', 'Created', 'Running', 'Paused', 'Shutdown'],
  shutdown: ['NotCreated', 'NotCreated', 'NotCreated', 'NotCreated', 'NotCreated'],
};
const STATES = ['NotCreated', 'Created', 'Running', 'Paused', 'Shutdown'] as const;

describe('from every state, every action', () => {
  const rows = Object.entries(TABLE).flatMap(([action, outcomes]) =>
    STATES.map((state, index) => [state, action as keyof typeof ACTIONS, outcomes[index]] as const),
  );
  test.each(rows)('%s, %s: %s', async (state, action, outcome) => {
    await bring(state);
    expect(monitor.state).toBe(state);
    if (/^[A-Z_]+$/.test(outcome)) {
      await expect(ACTIONS[action]()).rejects.toMatchObject({ name: 'Refusal', code: outcome });
      expect(monitor.state).toBe(state);
    } else {
      await ACTIONS[action]();
      expect(monitor.state).toBe(outcome);
    }
  });
});

describe('a VM', () => {
  test('is stopped by shutdown and delete, and made anew by the next boot', async () => {
    await bring('Running');
    await monitor.shutdownVm();
    await monitor.boot();
    expect(factory.vms).toHaveLength(2);
    expect(factory.vms[0].calls).toEqual(['start', 'stop']);
    await monitor.delete();
    expect(factory.vm.calls).toEqual(['start', 'stop']);
    expect(ends).toEqual([]);
  });

  test.each(['Running', 'Paused'] as const)('that ends by itself while %s is shut down, and told of', async (state) => {
    await bring(state);
    factory.vm.end({ reason: 'shutdown' });
    await factory.vm.exited;
    expect(monitor.state).toBe('Shutdown');
    expect(ends).toEqual([{ reason: 'shutdown' }]);
  });

  test('that cannot be made leaves the state as it was', async () => {
    await bring('Created');
    factory.failure = new Error('no KVM');
    await expect(monitor.boot()).rejects.toThrow('no KVM');
    expect(monitor.state).toBe('Created');
    await monitor.boot();
    expect(monitor.state).toBe('Running');
  });

  test('that cannot be started is stopped', async () => {
    await bring('Created');
    factory.prepare = (vm) => vm.failures.set('start', new Error('no'));
    await expect(monitor.boot()).rejects.toThrow('no');
    expect(factory.vm.calls).toEqual(['start', 'stop']);
    expect(monitor.state).toBe('Created');
  });

  test('that is restored is paused, or runs when that is asked for', async () => {
    await monitor.restore('/snap', { resume: true, overrides: { vsock: { socket: '/b' } } });
    expect(monitor.state).toBe('Running');
    expect(factory.restored).toEqual([['/snap', { vsock: { socket: '/b' } }]]);
    expect(factory.vm.calls).toEqual(['resume']);
  });

  test('that is restored and cannot go on is gone again', async () => {
    factory.prepare = (vm) => vm.failures.set('resume', new Error('no'));
    await expect(monitor.restore('/snap', { resume: true, overrides: {} })).rejects.toThrow('no');
    expect(monitor.state).toBe('NotCreated');
    expect(factory.vm.calls).toEqual(['resume', 'stop']);
  });

  test('whose pause fails runs on', async () => {
    await bring('Running');
    factory.vm.failures.set('pause', new Error('no'));
    await expect(monitor.pause()).rejects.toThrow('no');
    expect(monitor.state).toBe('Running');
  });
});

describe('what is asked for at once', () => {
  test('is done in order', async () => {
    await monitor.create(CONFIG);
    await Promise.all([
      monitor.boot(),
      monitor.pause(),
      monitor.snapshot('/a'),
      monitor.resume(),
      monitor.shutdownVm(),
    ]);
    expect(factory.vm.calls).toEqual(['start', 'pause', 'snapshot /a', 'resume', 'stop']);
  });

  test('goes on after something that failed', async () => {
    const [first, second] = await Promise.allSettled([monitor.boot(), monitor.create(CONFIG)]);
    expect([first.status, second.status]).toEqual(['rejected', 'fulfilled']);
  });
});

describe('the end of everything', () => {
  test('is told once, and stops the VM', async () => {
    await bring('Running');
    await Promise.all([monitor.shutdown(), monitor.shutdown()]);
    await monitor.closed;
    expect(factory.vm.calls[1]).toBe('stop');
    expect(ends).toEqual([]);
  });

  test('does not wait for what is under way', async () => {
    await bring('Paused');
    let release = (): void => undefined;
    factory.vm.holds.set(
      'snapshot',
      new Promise((resolve) => {
        release = resolve;
      }),
    );
    const saving = monitor.snapshot('/snap');
    const ended = monitor.shutdown();
    await factory.vm.exited;
    expect(factory.vm.calls).toContain('stop');
    release();
    await Promise.all([saving, ended, monitor.closed]);
  });

  test('stops a VM that is being made meanwhile', async () => {
    await bring('Created');
    let release = (): void => undefined;
    factory.hold = new Promise((resolve) => {
      release = resolve;
    });
    const booting = monitor.boot();
    const ended = monitor.shutdown();
    release();
    await expect(booting).rejects.toMatchObject({ code: 'WRONG_STATE' });
    await ended;
    expect(factory.vm.calls).toEqual(['stop']);
  });
});

describe('resize', () => {
  test('tells a VM that runs, and the configuration of one that does not', async () => {
    await bring('Created');
    await monitor.resize({ desired_balloon: 8192 });
    await monitor.boot();
    expect(factory.vm.config.balloon).toEqual({ size: 8192 });
    await monitor.resize({ desired_balloon: 4096 });
    expect(factory.vm.calls).toEqual(['start', 'balloon 4096']);
    expect(monitor.info().config.balloon).toEqual({ size: 4096 });
  });

  test.each([
    [{ desired_vcpus: 1, desired_ram: 64 * MIB }, undefined],
    [{}, undefined],
    [{ desired_vcpus: 2 }, /1 vCPUs, for good/],
    [{ desired_ram: MIB }, /bytes of memory, for good/],
    [{ desired_balloon: 4097 }, /multiple of 4096/],
    [{ desired_balloon: 128 * MIB }, /at most/],
  ])('%j', async (request, problem) => {
    await bring('Running');
    const resized = monitor.resize(request);
    if (problem === undefined) await resized;
    else await expect(resized).rejects.toThrow(problem);
  });

  test('is refused without a balloon', async () => {
    await monitor.create(DEFAULT_VM_CONFIG);
    await expect(monitor.resize({ desired_balloon: 0 })).rejects.toThrow('no balloon');
  });
});

test('info has the pseudo-terminals of a VM that is there, and what the balloon leaves', async () => {
  await monitor.create({ ...CONFIG, serial: { mode: 'Pty' } });
  expect(monitor.info()).toMatchObject({ config: { serial: { mode: 'Pty' } }, memory_actual_size: 64 * MIB });
  await monitor.boot();
  expect(monitor.info()).toMatchObject({
    config: { serial: { mode: 'Pty', file: '/dev/pts/7' } },
    state: 'Running',
    memory_actual_size: 64 * MIB - 4096,
  });
});
