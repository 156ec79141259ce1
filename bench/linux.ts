// A Linux guest with two disks and a network card under tsvmm, against QEMU's microvm machine with the same kernel, images
// and tap: boot, disk, TCP, and what the monitor's process takes for it.
//
// The guest's clock times the work. Where KVM emulates the guest's kernel mode (test/guest/README.md) the guest is most
// of every figure, under either monitor: compare processor time beside the vCPU's thread there.
//
// Needs root (for the tap), qemu-system-x86_64 and what builds the test guest.

import { copyFileSync, chmodSync, writeFileSync } from 'node:fs';
import { connect, createServer, type AddressInfo } from 'node:net';
import { once } from 'node:events';
import { join } from 'node:path';
import { KIB, MIB } from '../src/platform/units.js';
import { NetNamespace } from '../test/support/net-namespace.js';
import { compared, median, type Bench, type Figure } from './harness.js';
import { buildLinux } from './linux-artefacts.js';
import { qemuCommand, RunningMachine, tsvmmCommand, type Command, type MachineParts } from './linux-monitors.js';

const ROUNDS = 3;
const DATA_SIZE = 128 * MIB;
const TCP_BYTES = 20_000_000;
const HOST = '10.0.7.1';
const GUEST = '10.0.7.2';
const TAP = 'bench0';
const MAC = '52:54:00:00:07:02';
const TCP_PORT = 5000;
/** Both ends send large segments and without pacing, as in test/e2e/linux/checks/net.ts. */
const LARGE_SEGMENTS = 'echo 44 >/proc/sys/net/ipv4/tcp_min_tso_segs';
const WITHOUT_PACING = 'echo reno >/proc/sys/net/ipv4/tcp_congestion_control';

const DISK_LOADS = [
  { name: 'sequential reads of 1 MiB', args: 'read sequential', bytes: MIB, count: 64, unit: 'MB/s' },
  { name: 'sequential writes of 1 MiB', args: 'write sequential', bytes: MIB, count: 64, unit: 'MB/s' },
  { name: 'random reads of 4 KiB', args: 'read random', bytes: 4 * KIB, count: 500, unit: 'requests/s' },
  { name: 'random writes of 4 KiB', args: 'write random', bytes: 4 * KIB, count: 500, unit: 'requests/s' },
] as const;

/** Names and units of what a round measures, in the order of the table. */
const UNITS = {
  'boot to init': 's',
  'boot to init, processor time': 's',
  ...Object.fromEntries(DISK_LOADS.map(({ name, unit }) => [name, unit])),
  'these, processor time': 's',
  'TCP, guest to host': 'MB/s',
  'TCP, host to guest': 'MB/s',
  'both, processor time': 's',
  'disk and TCP, processor time beside the vCPU': 's',
  'resident beyond guest memory, after boot': 'MiB',
  'resident beyond guest memory, after the work': 'MiB',
};
type Measured = Record<string, number>;

export const linux: Bench = {
  name: 'linux',
  description: "a Linux guest's boot, disk and TCP, and the monitor's processor time and memory, against QEMU microvm",
  async run(work) {
    const { kernel, disk } = buildLinux();
    await using namespace = await NetNamespace.create();
    namespace.ip(`tuntap add dev ${TAP} mode tap vnet_hdr`);
    namespace.ip(`addr add ${HOST}/24 dev ${TAP}`);
    namespace.ip(`link set ${TAP} up`);
    namespace.run('sh', '-c', `${LARGE_SEGMENTS}; ${WITHOUT_PACING}`);
    const data = join(work, 'data.img');
    writeFileSync(data, Buffer.alloc(DATA_SIZE, 0x5a));

    const rounds: Record<'ours' | 'theirs', Measured[]> = { ours: [], theirs: [] };
    for (let round = 0; round < ROUNDS; round++) {
      for (const [side, command] of [
        ['ours', tsvmmCommand],
        ['theirs', qemuCommand],
      ] as const) {
        const root = join(work, `root-${side}-${round}`);
        copyFileSync(disk, root);
        chmodSync(root, 0o600);
        const parts: MachineParts = { namespacePid: namespace.pid, kernel, root, data, tap: TAP, mac: MAC };
        rounds[side].push(await measure(command(parts), namespace));
      }
    }
    const of = (measured: readonly Measured[], name: string): number => median(measured.map((round) => round[name]));
    return Object.entries(UNITS).map(([name, unit]): Figure =>
      compared(name, unit, of(rounds.ours, name), of(rounds.theirs, name)),
    );
  },
};

/** The paths of what test/guest/build.sh builds, or finds in its cache. */

/** Boots a guest and has it do everything once. */
async function measure(command: Command, namespace: NetNamespace): Promise<Measured> {
  const machine = await RunningMachine.boot(command, namespace.pid);
  try {
    const measured: Measured = {
      'boot to init': machine.bootMs / 1000,
      'boot to init, processor time': machine.cpuSeconds(),
      'resident beyond guest memory, after boot': machine.overheadBytes() / MIB,
    };
    await machine.run(`ifconfig eth0 ${GUEST} netmask 255.255.255.0 up; ${LARGE_SEGMENTS}`);
    const besideVcpu = machine.cpuSecondsBesideVcpu();

    const beforeDisk = machine.cpuSeconds();
    for (const { name, args, bytes, count, unit } of DISK_LOADS) {
      const report = await machine.run(`disk-tool ${args} /dev/vdb ${bytes} ${count}`);
      const seconds = Number(/ us=(\d+)/.exec(report)?.[1]) / 1e6;
      measured[name] = unit === 'MB/s' ? (bytes * count) / 1e6 / seconds : count / seconds;
    }
    const beforeTcp = machine.cpuSeconds();
    measured['these, processor time'] = beforeTcp - beforeDisk;
    measured['TCP, guest to host'] = await sendFromGuest(machine, namespace);
    measured['TCP, host to guest'] = await sendToGuest(machine, namespace);
    measured['both, processor time'] = machine.cpuSeconds() - beforeTcp;
    measured['disk and TCP, processor time beside the vCPU'] = machine.cpuSecondsBesideVcpu() - besideVcpu;
    measured['resident beyond guest memory, after the work'] = machine.overheadBytes() / MIB;
    return measured;
  } finally {
    await machine.stop();
  }
}

/** Megabytes a second, by the guest's clock. */
function tcpRate(report: string, direction: 'tx' | 'rx'): number {
  const bytes = Number(new RegExp(` ${direction}=(\\d+) `).exec(report)?.[1]);
  const ms = Number(/ ms=(\d+) /.exec(report)?.[1]);
  if (bytes !== TCP_BYTES) throw new Error(`the guest did not move ${TCP_BYTES} bytes: ${report}`);
  return bytes / 1e3 / ms;
}

async function sendFromGuest(machine: RunningMachine, namespace: NetNamespace): Promise<number> {
  const server = createServer((socket) => socket.resume());
  await namespace.enter(async () => {
    server.listen(0);
    await once(server, 'listening');
  });
  try {
    const { port } = server.address() as AddressInfo;
    return tcpRate(await machine.run(`vsock-tool connect ${HOST} ${port} source ${TCP_BYTES} tcp b=262144`), 'tx');
  } finally {
    server.close();
  }
}

async function sendToGuest(machine: RunningMachine, namespace: NetNamespace): Promise<number> {
  const command = `vsock-tool listen ${TCP_PORT} sink tcp`;
  const from = machine.start(command);
  await machine.waitFor(/vsock-tool: listening/, from);
  const socket = await namespace.enter(async () => {
    const connecting = connect(TCP_PORT, GUEST);
    await once(connecting, 'connect');
    return connecting;
  });
  try {
    socket.end(Buffer.alloc(TCP_BYTES, 0xa5));
    return tcpRate(await machine.finish(command, from), 'rx');
  } finally {
    socket.destroy();
  }
}
