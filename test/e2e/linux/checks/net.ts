// The network card of a Linux guest: ping and TCP both ways, with checksums.
//
// The guest's kernel may be emulated instruction by instruction, so what counts is how much each of its passes through the
// network stack carries: both ends leave segmentation to the other, and a segment is up to 64 KiB.

import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { connect, createServer, type AddressInfo, type Socket } from 'node:net';
import { expect } from '@jest/globals';
import type { NetConfig } from '../../../../src/config/vm-config.js';
import { COMMAND_LIMIT_MS, type LinuxGuest } from '../../../support/linux-guest.js';
import type { NetNamespace } from '../../../support/net-namespace.js';

const HOST = '10.0.7.1';
const GUEST = '10.0.7.2';
const GUEST_PORT = 5000;

/**
 * TCP sends as much at once as passes in a millisecond, and thinks that little of a slow guest: segments of two frames.
 * This makes them as large as they can be, at either end, and takes BBR's pacing off where the host has it.
 */
const LARGE_SEGMENTS = 'echo 44 >/proc/sys/net/ipv4/tcp_min_tso_segs';
const WITHOUT_PACING = 'echo reno >/proc/sys/net/ipv4/tcp_congestion_control';

/** The device that `checkNetwork` looks at; the VM has to be made in a network namespace: `namespace.enter(...)`. */
export const NET_CONFIG: NetConfig = {
  id: 'lan',
  tap: 'guest0',
  ip: HOST,
  mac: '52:54:00:00:07:02',
  // A tap that is made anew for a restored guest would have another, and the guest remembers this one for a while (ARP).
  host_mac: '52:54:00:00:07:01',
};

/** What goes each way by TCP: 100 MB, in pieces that a busy machine moves well within the limit of a command. */
const TRANSFERS = 4;
const BYTES_EACH = 25_000_000;

/** Addresses the guest's interface, pings, and sends `transfers` times `bytes` each way. */
export async function checkNetwork(
  guest: LinuxGuest,
  namespace: NetNamespace,
  transfers = TRANSFERS,
  bytes = BYTES_EACH,
): Promise<void> {
  expect(await guest.run('read mac < /sys/class/net/eth0/address; echo $mac')).toBe(NET_CONFIG.mac);
  await guest.run(`ifconfig eth0 ${GUEST} netmask 255.255.255.0 up; ${LARGE_SEGMENTS}`);
  namespace.run('sh', '-c', `${LARGE_SEGMENTS}; ${WITHOUT_PACING}`);
  expect(await guest.run(`ping -c 2 -W 20 ${HOST}`)).toContain(', 0% packet loss');
  expect(await pingFromHost(namespace)).toContain(', 0% packet loss');
  for (let transfer = 0; transfer < transfers; transfer++) {
    await sendFromGuest(guest, namespace, bytes, transfer + 1);
    await sendToGuest(guest, namespace, bytes);
  }
  const { lan: counted = {} } = guest.vm.counters();
  for (const counter of ['rx_bytes', 'tx_bytes']) expect(counted[counter]).toBeGreaterThan(transfers * bytes);
  expect(counted['tx_dropped']).toBe(0);
}

/** The guest sends; the host's checksum of what came is the one that the guest made. */
async function sendFromGuest(guest: LinuxGuest, namespace: NetNamespace, bytes: number, seed: number): Promise<void> {
  const server = createServer();
  await namespace.enter(async () => {
    server.listen(0);
    await once(server, 'listening');
  });
  try {
    const { port } = server.address() as AddressInfo;
    const sum = (once(server, 'connection') as Promise<[Socket]>).then(async ([socket]) => {
      const hash = createHash('sha256');
      socket.on('data', (data: Buffer) => hash.update(data));
      await once(socket, 'close');
      return hash.digest('hex');
    });
    const report = await guest.run(`vsock-tool connect ${HOST} ${port} source ${bytes} tcp b=262144 seed=${seed}`);
    expect(report).toContain(` tx=${bytes} `);
    expect(report).toContain(`txsha=${await sum}`);
  } finally {
    server.close();
  }
}

/** The host sends; the guest says what checksum it got. */
async function sendToGuest(guest: LinuxGuest, namespace: NetNamespace, bytes: number): Promise<void> {
  const from = guest.console.text.length;
  await guest.startUntil(`vsock-tool listen ${GUEST_PORT} sink tcp`, /vsock-tool: listening/);
  const data = randomBytes(bytes);
  const socket = await namespace.enter(async () => {
    const connecting = connect(GUEST_PORT, GUEST);
    await once(connecting, 'connect');
    return connecting;
  });
  socket.end(data);
  const report = await guest.finish(from);
  socket.destroy();
  expect(report).toContain(` rx=${bytes} `);
  expect(report).toContain(`rxsha=${createHash('sha256').update(data).digest('hex')}`);
  expect(report).toContain('end=eof');
}

async function pingFromHost(namespace: NetNamespace): Promise<string> {
  const ping = namespace.spawn('busybox', 'ping', '-c', '2', '-W', '20', GUEST);
  const timer = setTimeout(() => ping.kill(), COMMAND_LIMIT_MS);
  let output = '';
  ping.stdout.on('data', (data: Buffer) => (output += data.toString()));
  ping.stderr.on('data', (data: Buffer) => (output += data.toString()));
  await once(ping, 'close');
  clearTimeout(timer);
  return output;
}
