// A Linux guest on a whole machine: two vCPUs, an ext4 root, every device there is, all found by ACPI. Booted once, used
// by every test of this file, powered off by the last.

import { copyFileSync, chmodSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { once } from 'node:events';
import { createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { randomBytes } from 'node:crypto';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { MIB } from '../../../src/platform/units.js';
import { Vm } from '../../../src/vmm/vm.js';
import { describeKvm } from '../../support/kvm.js';
import { ACPI_CMDLINE, BOOT_LIMIT_MS, COMMAND_LIMIT_MS, LinuxGuest, testArtefact } from '../../support/linux-guest.js';
import { networkProblem, requireAll } from '../../support/describe-network.js';
import { NetNamespace } from '../../support/net-namespace.js';
import { ConsoleRecorder } from '../../support/vms.js';
import { describeWithTool } from '../../support/tools.js';
import { connectVsock, readAll } from '../../support/vsock-client.js';
import { checkAcpi, checkPowerButton } from './checks/acpi.js';
import { checkBalloon } from './checks/balloon.js';
import { DataDisk, expectCleanExt4 } from './checks/block.js';
import { checkConsole, checkWatchdog } from './checks/console.js';
import { checkNetwork, NET_CONFIG } from './checks/net.js';
import { checkPmem } from './checks/pmem.js';
import { checkRng } from './checks/rng.js';
import { checkProcessors } from './checks/smp.js';

const CPUS = 2;
const PMEM_SIZE = 8 * MIB;
/** vsock, two disks, net, pmem, rng, balloon, console. */
const DEVICES = 8;
const VSOCK_BYTES = 256 * 1024;

// Where nothing may be skipped, making the namespace fails and says why.
const network = requireAll ? undefined : networkProblem();

const onWholeMachine = (): void => {
  let directory = '';
  let root = '';
  let pmem = '';
  let socketPath = '';
  let data: DataDisk;
  let namespace: NetNamespace | undefined;
  let guest: LinuxGuest;

  beforeAll(async () => {
    directory = mkdtempSync(join(tmpdir(), 'tsvmm-machine-'));
    root = join(directory, 'root.ext4');
    pmem = join(directory, 'pmem');
    socketPath = join(directory, 'ch.vsock');
    copyFileSync(testArtefact('disk'), root);
    chmodSync(root, 0o600);
    writeFileSync(pmem, '');
    truncateSync(pmem, PMEM_SIZE);
    data = new DataDisk(directory);
    // On a busy machine the default of 30 s is too little for what is done while the watchdog runs.
    const cmdline = `${ACPI_CMDLINE} root=/dev/vda rw wdat_wdt.timeout=600`;
    const boot = (): Promise<LinuxGuest> =>
      LinuxGuest.boot({
        payload: { kernel: testArtefact('kernel'), cmdline },
        cpus: { boot_vcpus: CPUS, max_vcpus: CPUS },
        // The host would join what is left beside the balloon's pages to huge pages, and so fill them again.
        memory: { size: 64 * MIB, thp: false },
        vsock: { cid: 3, socket: socketPath },
        disks: [{ path: root, image_type: 'Raw' }, data.config],
        net: network === undefined ? [{ ...NET_CONFIG, num_queues: 2 * CPUS }] : [],
        pmem: [{ file: pmem }],
        balloon: { size: 0, deflate_on_oom: true, free_page_reporting: true },
        console: { mode: 'Null' },
        watchdog: true,
        pvpanic: true,
        io_threads: 2,
      });
    if (network === undefined) namespace = await NetNamespace.create();
    guest = namespace === undefined ? await boot() : await namespace.enter(boot);
  }, BOOT_LIMIT_MS);
  // `boot` may have failed: there is nothing to stop then, and Jest reports that failure.
  afterAll(async () => {
    await (guest as LinuxGuest | undefined)?.vm.stop();
    await namespace?.[Symbol.asyncDispose]();
    rmSync(directory, { recursive: true });
  });

  test(
    'ACPI tells it of every device and processor, and its command line of none',
    () => checkAcpi(guest, network === undefined ? DEVICES : DEVICES - 1, CPUS),
    3 * COMMAND_LIMIT_MS,
  );

  test('both processors work', () => checkProcessors(guest, CPUS), 2 * COMMAND_LIMIT_MS);

  test(
    'its root is an ext4 disk; another, of qcow2 over qcow2, is read, written, flushed, mounted again and trimmed',
    async () => {
      expect(await guest.run('read line < /proc/mounts; echo $line')).toMatch(/ \/ ext4 rw/);
      await data.check(guest, guest.vm, 'vdb');
    },
    4 * COMMAND_LIMIT_MS,
  );

  test('entropy comes from its device', () => checkRng(guest, guest.vm), 3 * COMMAND_LIMIT_MS);

  test(
    'persistent memory is the file of the host',
    () => checkPmem(guest, guest.vm, { file: pmem, size: PMEM_SIZE }),
    3 * COMMAND_LIMIT_MS,
  );

  test('its virtio console goes both ways', () => checkConsole(guest, guest.vm), 3 * COMMAND_LIMIT_MS);

  test('its watchdog starts and stops', () => checkWatchdog(guest), 3 * COMMAND_LIMIT_MS);

  test(
    'vsock: each side is a client of the other, and gets back what it sent',
    async () => {
      const from = guest.console.text.length;
      await guest.startUntil('vsock-tool listen 4000 echo', /vsock-tool: listening 4000/);
      const sent = randomBytes(VSOCK_BYTES);
      const socket = await connectVsock(socketPath, 4000);
      socket.end(sent);
      expect((await readAll(socket)).equals(sent)).toBe(true);
      expect(await guest.finish(from)).toContain('end=eof');

      const server = createServer({ allowHalfOpen: true });
      server.listen(`${socketPath}_4001`);
      await once(server, 'listening');
      server.once('connection', (connection: Socket) => connection.pipe(connection));
      try {
        const report = await guest.run(`vsock-tool connect 2 4001 source ${VSOCK_BYTES}`);
        const [tx, rx] = ['tx', 'rx'].map((way) => new RegExp(`${way}sha=([0-9a-f]{64})`).exec(report)?.[1]);
        expect(rx).toBe(tx);
        expect(report).toContain(` rx=${VSOCK_BYTES} `);
      } finally {
        server.close();
      }
    },
    3 * COMMAND_LIMIT_MS,
  );

  (network === undefined ? test : test.skip)(
    'network: ping, and 100 MB by TCP, each way',
    async () => {
      if (namespace === undefined) throw new Error('the network namespace is missing');
      await checkNetwork(guest, namespace);
    },
    10 * COMMAND_LIMIT_MS,
  );

  test(
    'it goes on from a snapshot with every device, and draws its random numbers anew',
    async () => {
      const folder = join(directory, 'snapshot');
      await guest.run('echo before the snapshot > /before;');
      await guest.vm.snapshot(folder);
      await guest.vm.stop();
      const restore = (): Promise<Vm> => Vm.restore(folder);
      const vm = await (namespace === undefined ? restore() : namespace.enter(restore));
      guest = new LinuxGuest(vm, new ConsoleRecorder(vm));
      await vm.resume();
      expect(await guest.run('dmesg | grep crng | tail -n 1')).toContain('crng reseeded due to virtual machine fork');
      await checkProcessors(guest, CPUS);
      // What the page cache had not written when it was saved, and the disk after it.
      expect(await guest.run('cat /before; sync; dd if=/dev/vda of=/dev/null bs=64k count=1 2>/dev/null')).toBe(
        'before the snapshot',
      );
      await checkRng(guest, vm);
      await checkConsole(guest, vm);
      if (namespace !== undefined) await checkNetwork(guest, namespace, 1, MIB);
    },
    12 * COMMAND_LIMIT_MS,
  );

  test(
    'its balloon gives memory to the host and takes it back',
    () => checkBalloon(guest, guest.vm),
    5 * COMMAND_LIMIT_MS,
  );

  test('it hears its power button', () => checkPowerButton(guest, guest.vm), 2 * COMMAND_LIMIT_MS);

  test(
    'it switches its power off, and leaves whole disks',
    async () => {
      await guest.run('mount -o remount,ro /');
      await guest.vm.console.write(Buffer.from('poweroff -f\n'));
      expect(await guest.vm.exited).toEqual({ reason: 'shutdown' });
      expectCleanExt4(root);
      data.checkAfterwards();
    },
    2 * COMMAND_LIMIT_MS,
  );
};

describeKvm('a Linux guest', () => {
  describeWithTool('on a whole machine', 'qemu-img', 'qemu-utils', onWholeMachine);
});
