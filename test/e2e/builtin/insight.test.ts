// What the library shows of a running VM's vsock device, and the change of the guest's CID, with the built-in guest.

import { once } from 'node:events';
import { expect, test } from '@jest/globals';
import { Vm, VsockError, type VsockStream } from '../../../src/index.js';
import { describeKvm } from '../../support/kvm.js';
import { eventually } from '../../support/process-state.js';
import { ConsoleRecorder, testConfig } from '../../support/vms.js';

const ECHO = 7;

/** A guest that has not read its new CID yet takes no notice of what is addressed to that. */
async function connectSoon(vm: Vm): Promise<VsockStream> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await vm.vsock.connect(ECHO, { timeout: 500 });
    } catch (error) {
      if (attempt === 10 || !(error instanceof VsockError) || error.code !== 'TIMED_OUT') throw error;
    }
  }
}

describeKvm('a look at vsock', () => {
  test('counters and connections are there while the VM runs; a new CID ends connections, and new ones work', async () => {
    const lines: string[] = [];
    const limits = { max_connections: 10, buf_alloc: 65_536, poll_us: 20, connect_timeout_ms: 1000 };
    const vm = await Vm.create(testConfig({ vsock: { cid: 3, ...limits } }), {
      log: (_level, _component, message) => lines.push(message),
      logLevel: 'debug',
    });
    try {
      expect(await vm.vsock.connections()).toEqual([]);
      await vm.start();
      const stream = await vm.vsock.connect(ECHO, { waitForDriver: true });
      // Should an expectation fail, that is the failure to report, and not that the VM's end broke the stream.
      stream.on('error', () => undefined);
      stream.write('hello');
      expect(String((await once(stream, 'data'))[0])).toBe('hello');
      // The bytes may be here a moment before they are counted.
      await eventually('all is counted', () => vm.vsock.counters().txBytes === 5);
      expect(vm.vsock.counters()).toMatchObject({ rxBytes: 5, txBytes: 5, connectionsFromHost: 1, guestFaults: 0 });
      expect(await vm.vsock.connections()).toMatchObject([
        { type: 'stream', guestPort: ECHO, peerCid: 2, state: 'established', rxBytes: 5, txBytes: 5, txWaiting: 0 },
      ]);

      expect(() => {
        vm.vsock.setGuestCid(2);
      }).toThrow(RangeError);
      vm.vsock.setGuestCid(4242);
      expect((await once(stream, 'error'))[0]).toMatchObject({ code: 'RESET' });
      expect(vm.vsock.cid).toBe(4242);
      const again = await connectSoon(vm);
      again.end('again');
      const closed = once(again, 'close');
      expect(String((await once(again, 'data'))[0])).toBe('again');
      await closed;
      const console = new ConsoleRecorder(vm);
      await vm.console.write(Buffer.from('help\n'));
      await console.waitFor(/stats/);
      expect(vm.vsock.counters().guestFaults).toBe(0);
      expect(lines.join('\n')).toMatch(/reset: stream 7 with 2:\d+, 5 bytes to the guest, 5 from it/);
    } finally {
      await vm.stop();
    }
    await expect(vm.vsock.connections()).rejects.toMatchObject({ code: 'CLOSED' });
    expect(vm.vsock.counters().connectionsFromHost).toBeGreaterThanOrEqual(2);
  });
});
