// The doctor's checks, each on a host where just that is wrong.

import { describe, expect, test } from '@jest/globals';
import { EACCES, EBUSY, EIO, ENOENT, EPERM, SysError } from '../../../src/platform/errno.js';
import { MIB } from '../../../src/platform/units.js';
import { type CheckStatus, diagnose, type HostProbes } from '../../../src/vmm/doctor/checks.js';
import { VmError } from '../../../src/vmm/errors.js';
import { KVM_CAP_TSC_DEADLINE_TIMER } from '../../../src/vmm/kvm/abi.js';
import { FakeKvm, fakeHost, HEALTHY_FILES } from '../../support/fake-host.js';

const fails = (error: Error) => () => Promise.reject(error);

/** The limits of the healthy host, but for one. */
function limits(from: string, to: string): Record<string, string> {
  return { '/proc/self/limits': (HEALTHY_FILES['/proc/self/limits'] ?? '').replace(from, to) };
}

interface Case {
  readonly what: string;
  readonly changes?: Partial<HostProbes>;
  readonly files?: Readonly<Record<string, string | undefined>>;
  readonly name: string;
  readonly status: CheckStatus;
  readonly detail: RegExp;
  readonly mend: RegExp;
}

const CASES: readonly Case[] = [
  {
    what: 'another system',
    changes: { platform: 'darwin', arch: 'arm64' },
    name: 'machine',
    status: 'problem',
    detail: /^darwin on arm64$/,
    mend: /Linux on an x86-64/,
  },
  {
    what: 'an old Node',
    changes: { nodeVersion: '18.19.0' },
    name: 'node',
    status: 'problem',
    detail: /18\.19\.0 is too old/,
    mend: /install Node 20/,
  },
  {
    what: 'an old kernel',
    changes: { kernelRelease: '4.9.0-19-amd64' },
    name: 'kernel',
    status: 'problem',
    detail: /4\.9\.0-19-amd64 is too old/,
    mend: /4\.12 or newer/,
  },
  {
    what: 'koffi without a binary for this machine',
    changes: { loadSystemCalls: fails(new Error('Cannot find the native module')) },
    name: 'koffi',
    status: 'problem',
    detail: /does not load: Cannot find the native module/,
    mend: /npm ci/,
  },
  {
    what: 'no /dev/kvm',
    changes: { openKvm: fails(new VmError('KVM_NOT_FOUND', '/dev/kvm does not exist', 'load the KVM module')) },
    name: 'kvm',
    status: 'problem',
    detail: /^\/dev\/kvm does not exist$/,
    mend: /^load the KVM module$/,
  },
  {
    what: 'a required capability missing',
    changes: { openKvm: fails(new VmError('KVM_CAPABILITY', 'KVM on this host lacks KVM_CAP_IRQFD', 'newer kernel')) },
    name: 'kvm',
    status: 'problem',
    detail: /lacks KVM_CAP_IRQFD$/,
    mend: /newer kernel/,
  },
  {
    what: 'an optional capability missing',
    changes: { openKvm: () => Promise.resolve(new FakeKvm({ [KVM_CAP_TSC_DEADLINE_TIMER]: 0 })) },
    name: 'capabilities',
    status: 'warning',
    detail: /KVM_CAP_TSC_DEADLINE_TIMER \(guests use slower timers\)/,
    mend: /newer kernel/,
  },
  {
    what: 'one processor',
    changes: { processors: 1 },
    name: 'processors',
    status: 'warning',
    detail: /^1 for this process/,
    mend: /second processor/,
  },
  {
    what: 'KVM that makes no VM',
    changes: {
      openKvm: () =>
        Promise.resolve(new FakeKvm({}, new VmError('KVM_CAPABILITY', 'KVM did not create a VM', 'see `dmesg`'))),
    },
    name: 'vm',
    status: 'problem',
    detail: /^KVM did not create a VM$/,
    mend: /dmesg/,
  },
  {
    what: 'a guest that does not run',
    changes: { runGuest: fails(new Error('it crashed: triple fault')) },
    name: 'vm',
    status: 'problem',
    detail: /does not run: it crashed: triple fault/,
    mend: /another host/,
  },
  {
    what: 'a host that is a VM',
    files: { '/proc/cpuinfo': 'flags\t\t: fpu svm hypervisor\n', '/sys/module/kvm_amd/parameters/nested': '1\n' },
    name: 'virtualization',
    status: 'warning',
    detail: /virtual machine itself \(AMD-V, KVM's nested=/,
    mend: /real hardware/,
  },
  {
    what: 'little memory',
    files: { '/proc/meminfo': 'MemAvailable:     200000 kB\n' },
    name: 'memory',
    status: 'warning',
    detail: /^195\.31 MiB available$/,
    mend: /--memory size=128M/,
  },
  {
    what: 'a control group with little room',
    files: {
      '/proc/self/cgroup': '0::/box\n',
      '/sys/fs/cgroup/box/memory.max': `${512 * MIB}\n`,
      '/sys/fs/cgroup/box/memory.current': `${256 * MIB}\n`,
    },
    name: 'memory',
    status: 'warning',
    detail: /^256 MiB available in this control group$/,
    mend: /--memory/,
  },
  {
    what: 'a control group within one that has little room',
    files: {
      '/proc/self/cgroup': '0::/slice/box\n',
      '/sys/fs/cgroup/slice/memory.max': `${512 * MIB}\n`,
      '/sys/fs/cgroup/slice/memory.current': `${384 * MIB}\n`,
      '/sys/fs/cgroup/slice/box/memory.max': 'max\n',
      '/sys/fs/cgroup/slice/box/memory.current': '4096\n',
    },
    name: 'memory',
    status: 'warning',
    detail: /^128 MiB available in this control group$/,
    mend: /--memory/,
  },
  {
    what: 'a control group with few threads',
    files: { '/sys/fs/cgroup/pids.max': '40\n', '/sys/fs/cgroup/pids.current': '20\n' },
    name: 'threads',
    status: 'warning',
    detail: /^20 more in this control group/,
    mend: /TasksMax=/,
  },
  {
    what: 'a guest that runs out of descriptors',
    changes: { runGuest: fails(new Error('EMFILE: too many open files, open x')) },
    name: 'vm',
    status: 'problem',
    detail: /EMFILE/,
    mend: /ulimit -n 1024/,
  },
  {
    what: 'no /proc',
    files: { '/proc/meminfo': undefined },
    name: 'memory',
    status: 'warning',
    detail: /does not say/,
    mend: /mount \/proc/,
  },
  {
    what: 'few descriptors',
    files: limits('20000                20000', '256                  4096 '),
    name: 'open files',
    status: 'warning',
    detail: /^256 at once/,
    mend: /ulimit -n 4096$/,
  },
  {
    what: 'few descriptors, and no way to have more',
    files: limits('20000                20000', '256                  512  '),
    name: 'open files',
    status: 'warning',
    detail: /^256 at once/,
    mend: /ulimit -n 512; the hard limit/,
  },
  {
    what: 'a small address space',
    files: limits('Max address space         unlimited ', 'Max address space         1073741824'),
    name: 'address space',
    status: 'warning',
    detail: /limited to 1 GiB/,
    mend: /ulimit -v unlimited/,
  },
  {
    what: 'no /dev/net/tun',
    changes: { makeTap: fails(new SysError('open', ENOENT, '/dev/net/tun')) },
    name: 'taps',
    status: 'warning',
    detail: /no \/dev\/net\/tun/,
    mend: /modprobe tun/,
  },
  {
    what: 'a /dev/net/tun of somebody else',
    changes: { makeTap: fails(new SysError('open', EACCES, '/dev/net/tun')) },
    name: 'taps',
    status: 'warning',
    detail: /may not be opened/,
    mend: /read and write it/,
  },
  {
    what: 'no CAP_NET_ADMIN',
    changes: { makeTap: fails(new SysError('ioctl TUNSETIFF', EPERM, 'tap%d')) },
    name: 'taps',
    status: 'warning',
    detail: /no CAP_NET_ADMIN/,
    mend: /ip tuntap add/,
  },
  {
    what: 'a kernel that makes no tap',
    changes: { makeTap: fails(new SysError('ioctl TUNSETIFF', EBUSY, 'tap%d')) },
    name: 'taps',
    status: 'warning',
    detail: /EBUSY/,
    mend: /try again/,
  },
  {
    what: 'a tap that fails in another way',
    changes: { makeTap: fails(new SysError('ioctl TUNSETIFF', EIO)) },
    name: 'taps',
    status: 'warning',
    detail: /EIO/,
    mend: /dmesg/,
  },
  {
    what: 'a directory for sockets that is read-only',
    changes: { makeSocket: fails(new VmError('HOST_PATH', '--vsock: cannot listen', 'name a socket path')) },
    name: 'sockets',
    status: 'warning',
    detail: /^--vsock: cannot listen$/,
    mend: /^name a socket path$/,
  },
];

describe('the doctor', () => {
  test('finds nothing on a healthy host, and looks at everything', async () => {
    const { usable, checks } = await diagnose(fakeHost());
    expect(usable).toBe(true);
    expect(checks.filter(({ status, mend }) => status !== 'ok' || mend !== undefined)).toEqual([]);
    const named = new Set(checks.map(({ name }) => name));
    const onlyWhenWrong = ['address space', 'threads'];
    for (const { name } of CASES) if (!onlyWhenWrong.includes(name)) expect(named).toContain(name);
  });

  test.each(CASES)('$what: $status, with a mend', async ({ changes, files, name, status, detail, mend }) => {
    const { usable, checks } = await diagnose(fakeHost(changes, files));
    expect(checks.filter((check) => check.status !== 'ok')).toEqual([
      { name, status, detail: expect.stringMatching(detail), mend: expect.stringMatching(mend) },
    ]);
    expect(usable).toBe(status !== 'problem');
  });

  test('without koffi nothing is tried that needs it', async () => {
    const unexpected = fails(new Error('called'));
    const { checks } = await diagnose(
      fakeHost({
        loadSystemCalls: unexpected,
        openKvm: () => Promise.reject(new Error('called')),
        makeTap: unexpected,
        makeSocket: unexpected,
      }),
    );
    expect(checks.map(({ name }) => name)).not.toEqual(expect.arrayContaining(['kvm']));
    expect(checks.filter(({ status }) => status !== 'ok').map(({ name }) => name)).toEqual(['koffi']);
  });

  test('limits are read before anything is tried that may run into them', async () => {
    let tried = false;
    const healthy = fakeHost();
    const host = fakeHost({
      readText: (path) => (tried ? undefined : healthy.readText(path)),
      runGuest: () => {
        tried = true;
        return Promise.reject(new Error('EMFILE'));
      },
    });
    const { checks } = await diagnose(host);
    expect(checks.filter(({ status }) => status !== 'ok').map(({ name }) => name)).toEqual(['vm']);
    expect(checks.map(({ name }) => name)).toContain('open files');
  });

  test('KVM is closed again, also when it makes no VM', async () => {
    for (const kvm of [new FakeKvm(), new FakeKvm({}, new Error('no'))]) {
      await diagnose(fakeHost({ openKvm: () => Promise.resolve(kvm) }));
      expect(kvm.closed).toBe(true);
    }
  });
});
