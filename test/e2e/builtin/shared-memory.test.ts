// Guest memory is one thing with four faces: JavaScript in two workers, the guest, and the memory file.

import { mkdtempSync, readSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from '@jest/globals';
import { loadGuest } from '../../../src/boot/load.js';
import { GuestMemory } from '../../../src/platform/guest-memory.js';
import { GIB, MIB } from '../../../src/platform/units.js';
import { guestCpuid } from '../../../src/vmm/cpuid.js';
import { KVM_EXIT_IO, RUN } from '../../../src/vmm/kvm/abi.js';
import { KvmSystem } from '../../../src/vmm/kvm/system.js';
import { KvmVcpu } from '../../../src/vmm/kvm/vcpu-fd.js';
import { KvmVm } from '../../../src/vmm/kvm/vm-fd.js';
import { AllocatedMemory } from '../../../src/vmm/memory.js';
import { enterBootState, setUpVcpu } from '../../../src/vmm/vcpu-state.js';
import { describeKvm } from '../../support/kvm.js';
import { writeKernel } from '../../support/tiny-kernel.js';
import { runWorker } from '../../support/workers.js';

const DATA = 0x3000_0000 - 0x1000;

/** mov $DATA, %eax; addb $10, (%rax); addb $10, 1(%rax); out %al, $0x80 */
const ADD_TEN_TWICE = [0xb8, 0x00, 0xf0, 0xff, 0x2f, 0x80, 0x00, 0x0a, 0x80, 0x40, 0x01, 0x0a, 0xe6, 0x80];

describeKvm('guest memory', () => {
  test('two workers, the guest and the memory file see the same bytes', async () => {
    const directory = mkdtempSync(join(tmpdir(), 'tsvmm-memory-'));
    const system = KvmSystem.open();
    const ram = new AllocatedMemory({ size: GIB - 256 * MIB, shared: true });
    const vm = new KvmVm(system, ram.map);
    const vcpu = new KvmVcpu(vm.fd, 0, system.vcpuMmapSize);
    try {
      const memory = new GuestMemory(ram.map);
      const boot = loadGuest(memory, { kernel: writeKernel(directory, ADD_TEN_TWICE), cmdline: '', cpus: 1 });
      const { tscDeadlineTimer } = system;
      setUpVcpu(vcpu, guestCpuid(system.supportedCpuid(), { vcpu: 0, vcpuCount: 1, tscDeadlineTimer }));
      enterBootState(vcpu, boot);

      memory.write(DATA, Uint8Array.of(1, 2));
      const workerData = { map: ram.map, address: DATA, length: 2 };
      await runWorker('memory-worker', workerData); // Each adds 1.
      expect(vcpu.enter()).toBe(0);
      expect(new DataView(vcpu.run).getUint32(RUN.EXIT_REASON, true)).toBe(KVM_EXIT_IO);
      await runWorker('memory-worker', workerData);

      expect([...memory.read(DATA, 2)]).toEqual([13, 14]);
      const file = Buffer.alloc(2);
      readSync(ram.fd ?? -1, file, 0, 2, DATA);
      expect([...file]).toEqual([13, 14]);
    } finally {
      vcpu.close();
      await vm.close();
      system.close();
      ram.close();
      rmSync(directory, { recursive: true });
    }
  });
});
