// What devices count, as metrics: for each kind of device and each of its counters, the metric that it becomes. A counter
// that is not here is not shown; a test holds the tables to what the devices declare.

import type { DeviceKind } from '../device-kinds.js';
import type { MetricFamily, MetricSample } from './family.js';

/** The counters of one device, by their names. */
export interface DeviceReading {
  readonly id: string;
  readonly kind: DeviceKind;
  readonly counters: Readonly<Record<string, number>>;
}

interface Metric {
  readonly name: string;
  readonly help: string;
  readonly type: MetricFamily['type'];
  /** Beside `device`. */
  readonly labels: Readonly<Record<string, string>>;
  /** From the counter's unit to that of the name. */
  readonly scale: number;
}

type Table = Readonly<Record<string, Metric>>;

function total(name: string, help: string, labels: Metric['labels'] = {}, scale = 1): Metric {
  return { name: `tsvmm_${name}_total`, help, type: 'counter', labels, scale };
}

function level(name: string, help: string, labels: Metric['labels'] = {}): Metric {
  return { name: `tsvmm_${name}`, help, type: 'gauge', labels, scale: 1 };
}

const FAULTS = total('device_guest_faults', 'What the guest has asked for that makes no sense, and was ignored.');
const INTERRUPTS = total('device_interrupts', 'Interrupts that the device has raised.');

function rateLimitStalls(direction: string): Metric {
  const help = 'How often a device has waited for its rate limit.';
  return total('device_rate_limit_stalls', help, { direction });
}

const blockOperations = (operation: string): Metric =>
  total('block_operations', 'Requests that the disk has carried out.', { operation });
const blockSeconds = (operation: string): Metric =>
  total('block_host_seconds', 'Time in calls on the image.', { operation }, 1e-6);

const BLOCK: Table = {
  read_bytes: total('block_read_bytes', 'Bytes that the guest has read from the disk.'),
  write_bytes: total('block_written_bytes', 'Bytes that the guest has written to the disk.'),
  read_ops: blockOperations('read'),
  write_ops: blockOperations('write'),
  flush_ops: blockOperations('flush'),
  discard_ops: blockOperations('discard'),
  write_zeroes_ops: blockOperations('write_zeroes'),
  failed_ops: total('block_failed_operations', 'Requests that the guest was told have failed.'),
  guest_faults: FAULTS,
  host_calls: total('block_host_calls', 'Calls on the image.'),
  read_us: blockSeconds('read'),
  write_us: blockSeconds('write'),
  flush_us: blockSeconds('flush'),
  rate_limit_stalls: rateLimitStalls('both'),
};

const NET: Table = {
  rx_bytes: total('net_receive_bytes', 'Bytes of frames that the guest has received.'),
  rx_frames: total('net_receive_packets', 'Frames that the guest has received.'),
  tx_bytes: total('net_transmit_bytes', 'Bytes of frames that the guest has sent.'),
  tx_frames: total('net_transmit_packets', 'Frames that the guest has sent.'),
  rx_dropped: total('net_receive_drops', 'Frames for the guest that were dropped.'),
  tx_dropped: total('net_transmit_drops', 'Frames of the guest that were dropped.'),
  rx_rate_limit_stalls: rateLimitStalls('receive'),
  tx_rate_limit_stalls: rateLimitStalls('transmit'),
};

const pages = (what: string, help: string): Metric => total(`balloon_${what}_pages`, help);
const guestFaults = (type: string): Metric =>
  total('guest_page_faults', 'Page faults in the guest, as it says.', { type });
const swapped = (direction: string): Metric =>
  total('guest_swap_bytes', 'What the guest has swapped, as it says.', { direction });
const guestMemory = (kind: string): Metric =>
  level('guest_memory_bytes', "The guest's memory, as it says: total, free, available without swapping, cache.", {
    kind,
  });
const hugePages = (result: string): Metric =>
  total('guest_huge_page_allocations', 'Huge pages that the guest wanted to allocate, as it says.', { result });

const BALLOON: Table = {
  inflatedPages: pages('inflated', 'Pages of 4 KiB that the guest has given up.'),
  deflatedPages: pages('deflated', 'Pages of 4 KiB that the guest has taken back.'),
  reportedBytes: total('balloon_reported_bytes', 'Memory that the guest has reported as free.'),
  returnedBytes: total('balloon_returned_bytes', 'Memory that was given back to the host.'),
  ignoredPages: pages('ignored', 'Pages of 4 KiB that do not exist, or cannot be given back.'),
  failedReturns: total('balloon_failed_returns', 'Calls for giving back memory that have failed.'),
  faults: FAULTS,
  targetBytes: level('balloon_target_bytes', 'The size that the balloon is to have.'),
  actualBytes: level('balloon_actual_bytes', 'The size that the balloon has.'),
  statisticsUpdates: total('balloon_statistics_updates', 'How often the guest has sent its statistics.'),
  swapInBytes: swapped('in'),
  swapOutBytes: swapped('out'),
  majorFaults: guestFaults('major'),
  minorFaults: guestFaults('minor'),
  freeBytes: guestMemory('free'),
  totalBytes: guestMemory('total'),
  availableBytes: guestMemory('available'),
  cacheBytes: guestMemory('cache'),
  hugePageAllocations: hugePages('allocated'),
  hugePageFailures: hugePages('failed'),
};

const CONSOLE: Table = {
  rxBytes: total('console_receive_bytes', 'Bytes of input that the guest has taken.'),
  txBytes: total('console_transmit_bytes', 'Bytes that the guest has printed.'),
  interrupts: INTERRUPTS,
  guestFaults: FAULTS,
};

const RNG: Table = {
  bytes: total('rng_bytes', 'Random bytes that the guest was given.'),
  requests: total('rng_requests', 'Requests for random bytes.'),
  waits: total('rng_waits', 'How often the source had nothing at the moment.'),
  faults: FAULTS,
};

const PMEM: Table = {
  flushes: total('pmem_flushes', 'Flushes to the file.'),
  failedFlushes: total('pmem_failed_flushes', 'Flushes that have failed.'),
  faults: FAULTS,
};

const vsockConnections = (initiator: string): Metric =>
  total('vsock_connections', 'Connections that were asked for, by who asked.', { initiator });
const vsockStalls = (cause: string): Metric =>
  total('vsock_stalls', 'How often data waited: for credit or buffers of the guest, or for a host that reads.', {
    cause,
  });
const vsockResets = (reason: string): Metric =>
  total('vsock_resets', 'Connections that the device has reset, by the reason.', { reason });

const VSOCK: Table = {
  rxBytes: total('vsock_receive_bytes', 'Bytes that the guest was given.'),
  rxPackets: total('vsock_receive_packets', 'Data packets that the guest was given.'),
  rxReads: total('vsock_host_reads', 'Reads from the host side.'),
  txBytes: total('vsock_transmit_bytes', 'Bytes that the host was given.'),
  txPackets: total('vsock_transmit_packets', 'Packets that the guest has sent.'),
  txWrites: total('vsock_host_writes', 'Writes to the host side.'),
  interrupts: INTERRUPTS,
  connectionsFromGuest: vsockConnections('guest'),
  connectionsFromHost: vsockConnections('host'),
  connectionsRefused: total('vsock_refused_connections', 'Connections that were refused.'),
  creditStalls: vsockStalls('credit'),
  starvedStalls: vsockStalls('buffers'),
  writeStalls: vsockStalls('host'),
  resetsSent: total('vsock_sent_resets', 'RST packets that the guest was sent.'),
  resetsReceived: total('vsock_received_resets', 'RST packets that the guest has sent.'),
  guestFaults: FAULTS,
  rxBatches: total('vsock_receive_batches', 'Batches in which packets were published to the guest.'),
  txBatches: total('vsock_transmit_batches', 'Batches in which packets of the guest were taken.'),
  resetsRefused: vsockResets('refused'),
  resetsTimedOut: vsockResets('timed_out'),
  resetsFinished: vsockResets('finished'),
  resetsBroken: vsockResets('broken'),
  resetsUnknown: vsockResets('unknown'),
};

export const DEVICE_METRICS: Readonly<Record<DeviceKind, Table>> = {
  balloon: BALLOON,
  block: BLOCK,
  console: CONSOLE,
  net: NET,
  pmem: PMEM,
  rng: RNG,
  vsock: VSOCK,
};

/** The families of all devices together. */
export function deviceMetrics(devices: readonly DeviceReading[]): MetricFamily[] {
  const families = new Map<string, { readonly metric: Metric; readonly samples: MetricSample[] }>();
  for (const { id, kind, counters } of devices) {
    for (const [name, metric] of Object.entries(DEVICE_METRICS[kind])) {
      const count = counters[name] as number | undefined;
      if (count === undefined) continue;
      const family = families.get(metric.name) ?? { metric, samples: [] };
      families.set(metric.name, family);
      family.samples.push({ labels: { device: id, ...metric.labels }, value: count * metric.scale });
    }
  }
  return [...families].map(([name, { metric, samples }]) => ({ name, help: metric.help, type: metric.type, samples }));
}
