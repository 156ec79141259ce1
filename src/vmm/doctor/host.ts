// The probes of `tsvmm doctor` on the host it runs on. Main thread. Everything that reaches the C library is loaded only
// when it is asked for, so that a koffi that does not load is a finding like others.

import { readFileSync } from 'node:fs';
import { availableParallelism, release, tmpdir } from 'node:os';
import { join } from 'node:path';
import { hugePagePool, hugePageSizes } from '../../platform/huge-pages.js';
import { MIB } from '../../platform/units.js';
import type { HostProbes, KvmProbe } from './checks.js';

/** Enough for the built-in guest. */
const GUEST_MEMORY = 64 * MIB;
/** The guest prints within milliseconds; this is for a host on its knees. */
const GUEST_LIMIT_MS = 30_000;

/** This host. `socketDirectory` is where sockets are tried. */
export function hostProbes(socketDirectory = tmpdir()): HostProbes {
  return {
    nodeVersion: process.versions.node,
    platform: process.platform,
    arch: process.arch,
    kernelRelease: release(),
    processors: availableParallelism(),
    socketDirectory,
    async loadSystemCalls() {
      await import('../../platform/libc.js');
    },
    openKvm,
    runGuest,
    async makeTap() {
      const { openTap } = await import('../../platform/tap.js');
      const { close } = await import('../../platform/libc.js');
      openTap(undefined, 1).queues.forEach(close);
    },
    async makeSocket() {
      const { HostSocket } = await import('../host-socket.js');
      new HostSocket('--vsock', join(socketDirectory, `tsvmm-doctor-${process.pid}.sock`)).close();
    },
    hugePagePools: () => hugePageSizes().map(hugePagePool),
    readText(path) {
      try {
        return readFileSync(path, 'latin1');
      } catch {
        return undefined;
      }
    },
  };
}

async function openKvm(): Promise<KvmProbe> {
  const { KvmSystem } = await import('../kvm/system.js');
  const { close } = await import('../../platform/libc.js');
  const system = KvmSystem.open();
  return {
    capability: (number) => system.capability(number),
    createVm() {
      close(system.createVm());
    },
    close() {
      system.close();
    },
  };
}

async function runGuest(): Promise<void> {
  const { Vm } = await import('../vm.js');
  const vm = await Vm.create({ memory: { size: GUEST_MEMORY }, serial: { mode: 'Null' } });
  const timer: { handle?: NodeJS.Timeout } = {};
  try {
    const printed = new Promise<undefined>((resolve) => {
      vm.console.onOutput(() => {
        resolve(undefined);
      });
    });
    const late = new Promise<string>((resolve) => {
      timer.handle = setTimeout(() => {
        resolve(`it printed nothing in ${GUEST_LIMIT_MS / 1000} s`);
      }, GUEST_LIMIT_MS);
    });
    const ended = vm.exited.then((end) => {
      if (end.reason === 'crash') return `it crashed: ${end.report.split('\n', 1)[0] ?? ''}`;
      return end.reason === 'failure' ? end.error.message : `it ended by itself (${end.reason})`;
    });
    await vm.start();
    const trouble = await Promise.race([printed, ended, late]);
    if (trouble !== undefined) throw new Error(trouble);
  } finally {
    clearTimeout(timer.handle);
    await vm.stop();
  }
}
