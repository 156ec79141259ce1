// What the VM is built from, without a VM: memory plan, CPUID, buses, ownership, host sockets.

import { mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { close } from '../../src/platform/libc.js';
import { listenUnix, probeUnixSocket, SOCK_STREAM } from '../../src/platform/unix-socket.js';
import { GIB, MIB } from '../../src/platform/units.js';
import { MmioBus, PortBus, VIRTIO_MMIO_BASE, type PortDevice } from '../../src/vmm/buses.js';
import { guestCpuid } from '../../src/vmm/cpuid.js';
import { VmError } from '../../src/vmm/errors.js';
import { HostSocket } from '../../src/vmm/host-socket.js';
import { KvmSystem, type CpuidEntry } from '../../src/vmm/kvm/system.js';
import { AllocatedMemory, planMemory } from '../../src/vmm/memory.js';
import { ReleaseStack } from '../../src/vmm/release-stack.js';

let directory = '';
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'tsvmm-vmm-'));
});
afterEach(() => {
  rmSync(directory, { recursive: true });
});

describe('guest memory plan', () => {
  test.each([
    [128 * MIB, [[0, 128 * MIB]]],
    [2 * GIB, [[0, 2 * GIB]]],
    [
      3 * GIB,
      [
        [0, 2 * GIB],
        [2 * GIB, GIB],
      ],
    ],
    [
      4 * GIB,
      [
        [0, 2 * GIB],
        [2 * GIB, GIB],
        [4 * GIB, GIB],
      ],
    ],
    [
      8 * GIB,
      [
        [0, 2 * GIB],
        [2 * GIB, GIB],
        [4 * GIB, 2 * GIB],
        [6 * GIB, 2 * GIB],
        [8 * GIB, GIB],
      ],
    ],
  ])('%d bytes go around the device hole in pieces of at most 2 GiB', (size, pieces) => {
    expect(planMemory(size)).toEqual(pieces.map(([gpa, length]) => ({ gpa, size: length })));
  });

  test('more than the host has is refused, with both sizes', () => {
    expect(() => new AllocatedMemory({ size: 2 ** 50 })).toThrow(
      /--memory size=1048576 GiB is more than the .* this host has/,
    );
  });
});

describe('CPUID', () => {
  const entry = (leaf: number, registers: Partial<CpuidEntry> = {}): CpuidEntry => ({
    function: leaf,
    index: 0,
    flags: 0,
    eax: 0,
    ebx: 0,
    ecx: 0,
    edx: 0,
    ...registers,
  });
  const supported = [entry(0, { eax: 0x1f }), entry(1, { ebx: 0xff }), entry(0xa, { eax: 7 }), entry(0xb), entry(0x1f)];

  test('the hypervisor bit, the APIC id and the number of processors are the guest’s own', () => {
    const table = guestCpuid(supported, { vcpu: 2, vcpuCount: 4, tscDeadlineTimer: true });
    const features = table.find((leaf) => leaf.function === 1);
    expect(features?.ebx).toBe(0x020408ff);
    expect((features?.ecx ?? 0) >>> 31).toBe(1);
    expect(((features?.ecx ?? 0) >>> 24) & 1).toBe(1);
  });

  test('topology leaves describe one core per vCPU and end with an invalid level', () => {
    const table = guestCpuid(supported, { vcpu: 2, vcpuCount: 4, tscDeadlineTimer: false });
    const levels = table.filter((leaf) => leaf.function === 0xb);
    expect(levels.map(({ eax, ebx, ecx, edx }) => [eax, ebx, ecx >>> 8, edx])).toEqual([
      [0, 1, 1, 2],
      [2, 4, 2, 2],
      [0, 0, 0, 2],
    ]);
  });

  test('leaf 1 says whether there are several logical processors', () => {
    const htt = (vcpuCount: number): number => {
      const table = guestCpuid(supported, { vcpu: 0, vcpuCount, tscDeadlineTimer: false });
      return ((table.find((leaf) => leaf.function === 1)?.edx ?? 0) >>> 28) & 1;
    };
    expect([htt(1), htt(2)]).toEqual([0, 1]);
  });

  test('a topology of threads, cores and dies is told in leaf 0x1f, and without dies in leaf 0xb', () => {
    const topology = { threads_per_core: 2, cores_per_die: 4, dies_per_package: 2, packages: 2 };
    const table = guestCpuid(supported, { vcpu: 21, vcpuCount: 32, topology, tscDeadlineTimer: false });
    const levels = (leaf: number): number[][] =>
      table.filter((entry) => entry.function === leaf).map(({ eax, ebx, ecx, edx }) => [eax, ebx, ecx >>> 8, edx]);
    expect(levels(0x1f)).toEqual([
      [1, 2, 1, 21],
      [3, 8, 2, 21],
      [4, 16, 5, 21],
      [0, 0, 0, 21],
    ]);
    expect(levels(0xb)).toEqual([
      [1, 2, 1, 21],
      [4, 16, 2, 21],
      [0, 0, 0, 21],
    ]);
  });

  test('AMD leaves name the core, the die and the size of the package', () => {
    const amd = [...supported, entry(0x8000_0008, { ecx: 0xffff_ffff }), entry(0x8000_001e)];
    const topology = { threads_per_core: 2, cores_per_die: 4, dies_per_package: 2, packages: 1 };
    const table = guestCpuid(amd, { vcpu: 11, vcpuCount: 16, topology, tscDeadlineTimer: false });
    expect(table.find((leaf) => leaf.function === 0x8000_0008)?.ecx).toBe(0xffff_4f0f);
    const node = table.find((leaf) => leaf.function === 0x8000_001e);
    expect([node?.eax, node?.ebx, node?.ecx]).toEqual([11, 0x105, 0x101]);
  });

  test('caches are shared by the threads of a core, or of a die for the last level', () => {
    const level = (number: number): number => (number << 5) | 1;
    const caches = [entry(4, { eax: level(2) }), entry(4, { index: 1, eax: level(3) }), ...supported];
    const topology = { threads_per_core: 2, cores_per_die: 4, dies_per_package: 1, packages: 1 };
    const table = guestCpuid(caches, { vcpu: 0, vcpuCount: 8, topology, tscDeadlineTimer: false });
    const sharing = table.filter((leaf) => leaf.function === 4).map(({ eax }) => (eax >>> 14) & 0xfff);
    expect(sharing).toEqual([1, 7]);
  });

  test('performance counters are not shown', () => {
    const table = guestCpuid(supported, { vcpu: 0, vcpuCount: 1, tscDeadlineTimer: false });
    expect(table.find((leaf) => leaf.function === 0xa)?.eax).toBe(0);
  });
});

describe('buses', () => {
  class Recorder implements PortDevice {
    readonly log: string[] = [];
    read(offset: number): number {
      return 0x10 + offset;
    }
    write(offset: number, value: number): void {
      this.log.push(`${offset}=${value}`);
    }
    writeString(bytes: Uint8Array): void {
      this.log.push(`string ${[...bytes].join(' ')}`);
    }
  }

  test('ports nobody answers read as ones; wide accesses reach the ports behind', () => {
    const bus = new PortBus();
    const device = new Recorder();
    bus.add(0x3f8, 2, device);
    const data = new Uint8Array(4);
    bus.read(0x3f8, 4, 1, data);
    expect([...data]).toEqual([0x10, 0x11, 0xff, 0xff]);
    bus.write(0x3f9, 2, 1, Uint8Array.of(7, 8));
    expect(device.log).toEqual(['1=7']);
    bus.write(0xffff, 4, 1, data);
    bus.read(0xffff, 4, 1, data);
    expect([...data]).toEqual([0xff, 0xff, 0xff, 0xff]);
  });

  test('a string of bytes is handed over whole', () => {
    const bus = new PortBus();
    const device = new Recorder();
    bus.add(0x3f8, 8, device);
    bus.write(0x3f8, 1, 3, Uint8Array.of(1, 2, 3, 4));
    bus.write(0x3f9, 1, 2, Uint8Array.of(5, 6));
    expect(device.log).toEqual(['string 1 2 3', '1=5', '1=6']);
  });

  test('addresses without a device read as ones and ignore writes', () => {
    const bus = new MmioBus([]);
    const data = new DataView(new ArrayBuffer(8));
    bus.read(VIRTIO_MMIO_BASE, 8, data, 0);
    expect(data.getBigUint64(0)).toBe(0xffff_ffff_ffff_ffffn);
    bus.write(VIRTIO_MMIO_BASE - 4, 4, data, 0);
    bus.write(2 ** 40, 4, data, 0);
  });
});

describe('ownership', () => {
  test('resources are released in reverse order, all of them, and once', () => {
    const stack = new ReleaseStack();
    const order: string[] = [];
    stack.own('a', (name) => order.push(name));
    stack.own('b', () => {
      throw new Error('b is stuck');
    });
    stack.own('c', (name) => order.push(name));
    expect(() => {
      stack.releaseAll();
    }).toThrow(AggregateError);
    stack.releaseAll();
    expect(order).toEqual(['c', 'a']);
  });
});

describe('host socket', () => {
  test('a stale socket file is replaced, and the file is removed at the end', () => {
    const path = join(directory, 'ch.vsock');
    close(listenUnix(path, SOCK_STREAM, 1));
    const socket = new HostSocket('--vsock', path);
    expect(probeUnixSocket(path, SOCK_STREAM)).toBe('live');
    socket.close();
    expect(probeUnixSocket(path, SOCK_STREAM)).toBe('absent');
  });

  test('a socket that a live process holds is refused by name', () => {
    const path = join(directory, 'ch.vsock');
    const other = new HostSocket('--vsock', path);
    expect(() => new HostSocket('--vsock', path)).toThrow(
      expect.objectContaining({ code: 'SOCKET_IN_USE', message: expect.stringContaining(path) as unknown }),
    );
    other.close();
  });

  test('a file that is no socket is left alone', () => {
    const path = join(directory, 'precious');
    writeFileSync(path, 'data');
    expect(() => new HostSocket('--vsock', path)).toThrow(/exists and is not a socket/);
    expect(statSync(path).size).toBe(4);
  });

  test('a socket that another process put there meanwhile is not removed', () => {
    const path = join(directory, 'ch.vsock');
    const socket = new HostSocket('--vsock', path);
    rmSync(path);
    const other = listenUnix(path, SOCK_STREAM, 1);
    socket.close();
    expect(probeUnixSocket(path, SOCK_STREAM)).toBe('live');
    close(other);
  });

  test('a directory that does not exist is named', () => {
    expect(() => new HostSocket('--vsock', join(directory, 'no', 'ch.vsock'))).toThrow(/cannot listen at .*ENOENT/);
  });
});

describe('opening KVM', () => {
  test('no such device: says so, and how to mend it', () => {
    expect(() => KvmSystem.open(join(directory, 'kvm'))).toThrow(
      expect.objectContaining({ code: 'KVM_NOT_FOUND', mend: expect.stringContaining('modprobe') as unknown }),
    );
  });

  test('a device that is not KVM: says so', () => {
    expect(() => KvmSystem.open('/dev/null')).toThrow(VmError);
    expect(() => KvmSystem.open('/dev/null')).toThrow(/KVM API version/);
  });
});
