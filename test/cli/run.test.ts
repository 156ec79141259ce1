// A run from the command line, with a VM and a host that are not real.

import { EventEmitter } from 'node:events';
import { describe, expect, jest, test } from '@jest/globals';
import { builtInGuestHints, shellQuote } from '../../src/cli/hints.js';
import type { VmEnd } from '../../src/cli/attend.js';
import { STOP_LIMIT_MS } from '../../src/cli/ending.js';
import type { Host } from '../../src/cli/host.js';
import { type CreateVm, runVm } from '../../src/cli/run.js';
import type { EndingSignal } from '../../src/cli/exit-codes.js';
import { DEFAULT_VM_CONFIG, type VmConfig } from '../../src/config/vm-config.js';

class FakeHost extends EventEmitter implements Host {
  readonly said: string[] = [];
  readonly deaths: (EndingSignal | undefined)[] = [];
  readonly stdin = Object.assign(new EventEmitter(), {
    isTTY: false,
    resume: () => undefined,
    pause: () => undefined,
  });
  readonly say = (line: string): void => {
    this.said.push(line);
  };
  readonly onSignal = (signal: EndingSignal, listener: () => void): void => {
    this.on(signal, listener);
  };
  readonly offSignal = (signal: EndingSignal, listener: () => void): void => {
    this.off(signal, listener);
  };
  readonly die = (signal: EndingSignal | undefined): void => {
    this.deaths.push(signal);
  };
}

class FakeVm {
  readonly publishedPorts = [{ host: '::1', hostPort: 40_000 }];
  readonly builtInGuest: boolean;
  readonly exited: Promise<VmEnd>;
  readonly typed: string[] = [];
  readonly console = { write: (bytes: Uint8Array): void => void this.typed.push(Buffer.from(bytes).toString()) };
  readonly consoles = {
    serial: { path: '/dev/pts/98' },
    console: { path: '/tmp/socket' },
    debug_console: { path: '/dev/pts/99' },
  };
  readonly end: (end: VmEnd) => void;
  started = false;
  stops = 0;
  readonly graces: number[] = [];
  /** Whether stop() ends it, as it should. */
  stoppable = true;

  constructor(builtInGuest: boolean) {
    this.builtInGuest = builtInGuest;
    const { promise, resolve } = withResolvers<VmEnd>();
    this.exited = promise;
    this.end = resolve;
  }
  start(): Promise<void> {
    this.started = true;
    return Promise.resolve();
  }
  stop({ graceMs = 0 } = {}): Promise<void> {
    this.stops++;
    this.graces.push(graceMs);
    if (this.stoppable && graceMs === 0) this.end({ reason: 'stopped' });
    return Promise.resolve();
  }
}

function withResolvers<T>() {
  let resolve: (value: T) => void = () => undefined;
  const promise = new Promise<T>((settle) => {
    resolve = settle;
  });
  return { promise, resolve };
}

async function begin({ config = DEFAULT_VM_CONFIG, builtInGuest = true, graceMs = 0 } = {}) {
  const host = new FakeHost();
  const vm = new FakeVm(builtInGuest);
  const status = runVm(
    config,
    () => Promise.resolve(vm),
    () => undefined,
    host,
    graceMs,
  );
  status.catch(() => undefined);
  // Creation and start take a few turns of the microtask queue.
  await new Promise((resolve) => setImmediate(resolve));
  return { host, vm, status };
}

describe('the end of a run', () => {
  test('says where pseudo-terminals are, and nothing of other consoles', async () => {
    const config: VmConfig = {
      ...DEFAULT_VM_CONFIG,
      serial: { mode: 'Pty' },
      console: { mode: 'Socket', socket: '/tmp/socket' },
      debug_console: { mode: 'Pty' },
    };
    const { host, vm, status } = await begin({ config, builtInGuest: false });
    expect(host.said).toEqual(['--serial is at /dev/pts/98', '--debug-console is at /dev/pts/99']);
    vm.end({ reason: 'shutdown' });
    await status;
  });

  test.each<[VmEnd, number]>([
    [{ reason: 'shutdown' }, 0],
    [{ reason: 'reset' }, 0],
    [{ reason: 'stopped' }, 0],
    [{ reason: 'shutdown', panicked: true }, 5],
    [{ reason: 'reset', panicked: true }, 5],
    [{ reason: 'stopped', panicked: true }, 5],
    [{ reason: 'crash', report: 'triple fault at 0x1000\n' }, 4],
  ])('%j gives status %i', async (end, expected) => {
    const { vm, status, host } = await begin();
    expect(vm.started).toBe(true);
    vm.end(end);
    expect(await status).toBe(expected);
    expect(host.eventNames()).toEqual([]);
  });

  test('a crash is reported', async () => {
    const { vm, status, host } = await begin();
    vm.end({ reason: 'crash', report: 'triple fault at 0x1000\n' });
    await status;
    expect(host.said.at(-1)).toBe('the guest crashed\ntriple fault at 0x1000');
  });

  test('a panic is said, and a signal keeps its own status', async () => {
    const { vm, status, host } = await begin();
    vm.stoppable = false;
    host.emit('SIGTERM');
    vm.end({ reason: 'stopped', panicked: true });
    expect(await status).toBe(143);
    expect(host.said.at(-1)).toBe('the guest panicked');
  });

  test("the VM's failure is thrown", async () => {
    const { vm, status } = await begin();
    vm.end({ reason: 'failure', error: new Error('a worker died') });
    await expect(status).rejects.toThrow('a worker died');
  });

  test('an error in creation is thrown, with the signals let go', async () => {
    const host = new FakeHost();
    const failing: CreateVm = () => Promise.reject(new Error('no KVM'));
    await expect(runVm(DEFAULT_VM_CONFIG, failing, () => undefined, host)).rejects.toThrow('no KVM');
    expect(host.eventNames()).toEqual([]);
  });
});

describe('signals', () => {
  test.each<[EndingSignal, number]>([
    ['SIGHUP', 129],
    ['SIGINT', 130],
    ['SIGTERM', 143],
  ])('%s stops the VM in order, status %i', async (signal, expected) => {
    const { vm, status, host } = await begin();
    host.emit(signal);
    expect(await status).toBe(expected);
    expect(vm.stops).toBe(1);
    expect(host.deaths).toEqual([]);
  });

  test('a second SIGINT does not wait', async () => {
    const { vm, host, status } = await begin();
    vm.stoppable = false;
    host.emit('SIGINT');
    host.emit('SIGINT');
    expect(host.deaths).toEqual(['SIGINT']);
    vm.end({ reason: 'stopped' });
    await status;
  });

  test('SIGTERM and SIGHUP together are one request', async () => {
    const { vm, host, status } = await begin();
    vm.stoppable = false;
    host.emit('SIGHUP');
    host.emit('SIGTERM');
    expect(host.deaths).toEqual([]);
    vm.end({ reason: 'stopped' });
    expect(await status).toBe(129);
  });

  test('a signal while the VM is made stops it before it starts', async () => {
    const host = new FakeHost();
    const vm = new FakeVm(true);
    const { promise, resolve } = withResolvers<FakeVm>();
    const status = runVm(
      DEFAULT_VM_CONFIG,
      () => promise,
      () => undefined,
      host,
    );
    host.emit('SIGTERM');
    resolve(vm);
    expect(await status).toBe(143);
    expect(vm.started).toBe(false);
  });

  test('a VM that does not stop is not waited for for ever', async () => {
    const { vm, host, status } = await begin();
    vm.stoppable = false;
    jest.useFakeTimers();
    try {
      host.emit('SIGTERM');
      jest.advanceTimersByTime(STOP_LIMIT_MS);
    } finally {
      jest.useRealTimers();
    }
    expect(host.deaths).toEqual([undefined]);
    expect(host.said.at(-1)).toContain('did not stop within 15 s');
    vm.end({ reason: 'stopped' });
    await status;
  });
});

describe('input', () => {
  test('goes to the guest, and its end ends nothing', async () => {
    const { vm, host, status } = await begin();
    host.stdin.emit('data', Buffer.from('help\r'));
    host.stdin.emit('end');
    expect(vm.typed).toEqual(['help\r']);
    vm.end({ reason: 'shutdown' });
    expect(await status).toBe(0);
  });

  test('goes to the virtio console when that has the terminal', async () => {
    const config: VmConfig = { ...DEFAULT_VM_CONFIG, serial: { mode: 'Null' }, console: { mode: 'Tty' } };
    const { vm, host, status } = await begin({ config });
    host.stdin.emit('data', Buffer.from('ls\r'));
    expect(vm.typed).toEqual(['ls\r']);
    vm.end({ reason: 'shutdown' });
    await status;
  });

  test.each<[VmConfig['serial']]>([[{ mode: 'Null' }], [{ mode: 'Off' }], [{ mode: 'File', file: '/tmp/f' }]])(
    'is not read with serial %j',
    async (serial) => {
      const { host, vm, status } = await begin({ config: { ...DEFAULT_VM_CONFIG, serial } });
      expect(host.stdin.eventNames()).toEqual([]);
      vm.end({ reason: 'shutdown' });
      await status;
    },
  );
});

describe('hints', () => {
  const withSocket = (socket: string): VmConfig => ({ ...DEFAULT_VM_CONFIG, vsock: { cid: 3, socket } });

  test('say how to connect to the built-in guest and how to leave it', async () => {
    const { vm, host, status } = await begin({ config: withSocket('/tmp/ch.vsock') });
    expect(host.said).toEqual([
      "connect with: printf 'CONNECT 7\\nhello\\n' | socat -t2 - UNIX-CONNECT:/tmp/ch.vsock",
      'leave with: Ctrl-C',
    ]);
    vm.end({ reason: 'shutdown' });
    await status;
  });

  test('say how to add vsock where there is none', () => {
    expect(builtInGuestHints(DEFAULT_VM_CONFIG, true)).toEqual([
      'add vsock with: --vsock cid=3,socket=/tmp/ch.vsock',
      'leave with: Ctrl-C or Ctrl-A x',
    ]);
  });

  test('are not for other guests', async () => {
    const { vm, host, status } = await begin({ builtInGuest: false });
    expect(host.said).toEqual([]);
    vm.end({ reason: 'shutdown' });
    await status;
  });

  test('can be pasted into a shell', () => {
    expect(shellQuote('UNIX-CONNECT:/tmp/ch.vsock')).toBe('UNIX-CONNECT:/tmp/ch.vsock');
    expect(shellQuote("/tmp/it's here")).toBe("'/tmp/it'\\''s here'");
  });
});

describe('signals that give the guest time', () => {
  test('a guest that shuts down in it ends the run as if by itself', async () => {
    const { vm, status } = await begin({ graceMs: 1000 }).then((run) => {
      run.host.emit('SIGTERM');
      return run;
    });
    expect(vm.graces).toEqual([1000]);
    vm.end({ reason: 'shutdown' });
    expect(await status).toBe(0);
  });

  test('a guest that does not is stopped, with the status of the signal', async () => {
    const { vm, host, status } = await begin({ graceMs: 1000 });
    host.emit('SIGHUP');
    vm.end({ reason: 'stopped' });
    expect(await status).toBe(129);
  });

  test.each<[EndingSignal, EndingSignal]>([
    ['SIGTERM', 'SIGTERM'],
    ['SIGTERM', 'SIGINT'],
    ['SIGINT', 'SIGINT'],
  ])('%s and then %s does not wait for the guest', async (first, second) => {
    const { vm, host, status } = await begin({ graceMs: 1000 });
    host.emit(first);
    host.emit(second);
    expect(await status).toBe({ SIGTERM: 143, SIGINT: 130, SIGHUP: 129 }[first]);
    expect(vm.graces).toEqual([1000, 0]);
    expect(host.deaths).toEqual([]);
  });

  test('SIGTERM and SIGHUP together are one request; a third, of a person, does not wait for anything', async () => {
    const { vm, host, status } = await begin({ graceMs: 1000 });
    vm.stoppable = false;
    host.emit('SIGTERM');
    host.emit('SIGHUP');
    expect(vm.graces).toEqual([1000]);
    host.emit('SIGINT');
    expect(vm.graces).toEqual([1000, 0]);
    host.emit('SIGINT');
    expect(host.deaths).toEqual(['SIGINT']);
    vm.end({ reason: 'stopped' });
    await status;
  });
});
