// Network cards, and vsock: sockets between guest and host without a network.

import { keyedOption, optional, required } from '../keyed-option.js';
import type { OptionSpec } from '../option-spec.js';
import { byteSize, integer, list, path, text, toggle, vsockPeer } from '../values.js';
import { given } from './given.js';
import { RATE_LIMIT_NEEDS, rateLimiter, rateLimitKeys } from './rate-limit.js';
import { PCI_KEYS, PCI_KEYS_OF_ONLY_DEVICE } from './refused.js';

const NO_VHOST_USER = 'Network cards are driven by tsvmm itself; name a tap with tap=.';

export const NETWORK_OPTIONS: readonly OptionSpec[] = [
  keyedOption({
    name: 'net',
    help: 'A network card on a tap of the host; give it again, or several values, for more',
    repeatable: true,
    keys: {
      tap: optional(
        text('NAME'),
        'net[].tap',
        'The tap; created if it does not exist, and gone with the VM (any name)',
      ),
      ip: optional(text('ADDRESS'), 'net[].ip', 'IPv4 address of the tap on the host (what it has)'),
      mask: optional(text('MASK'), 'net[].mask', 'Network mask of that address (255.255.255.0)'),
      mac: optional(text('MAC'), 'net[].mac', "The guest's address, like 12:34:56:78:9a:bc (random)"),
      host_mac: optional(text('MAC'), 'net[].host_mac', "The tap's address on the host (what it has)"),
      mtu: optional(integer, 'net[].mtu', 'Largest packet, 68 to 65535 (that of the tap)'),
      num_queues: optional(integer, 'net[].num_queues', 'Queues, two for each pair of receive and transmit (2)'),
      queue_size: optional(integer, 'net[].queue_size', 'Descriptors a queue, a power of two up to 1024 (256)'),
      id: optional(text(), 'net[].id', 'Name of the device in logs and counters (_net0, _net1, ...)'),
      offload_tso: optional(toggle, 'net[].offload_tso', 'TCP packets are cut up by the host (on)'),
      offload_ufo: optional(toggle, 'net[].offload_ufo', 'UDP packets are cut up by the host (on)'),
      offload_csum: optional(toggle, 'net[].offload_csum', 'Checksums are left to the host (on)'),
      ...rateLimitKeys('net[]', 'Frames in each direction'),
    },
    needs: RATE_LIMIT_NEEDS,
    notSupported: {
      ...PCI_KEYS,
      vhost_user: NO_VHOST_USER,
      socket: NO_VHOST_USER,
      vhost_mode: NO_VHOST_USER,
      fd: 'A tap is opened by its name; create it beforehand, give it to your user, and name it with tap=.',
    },
    into: (values) => {
      const { bw_size, bw_one_time_burst, bw_refill_time, ops_size, ops_one_time_burst, ops_refill_time, ...rest } =
        values;
      const limits = { bw_size, bw_one_time_burst, bw_refill_time, ops_size, ops_one_time_burst, ops_refill_time };
      return { net: [{ ...given(rest), ...rateLimiter(limits) }] };
    },
  }),
  keyedOption({
    name: 'vsock',
    help: 'Sockets between guest and host without a network (virtio-vsock)',
    keys: {
      cid: required(integer, 'vsock.cid', "The guest's context id, 3 to 4294967294"),
      socket: required(
        path,
        'vsock.socket',
        'Unix socket for connections to the guest ("CONNECT <port>"); connections from the guest go to PATH_<port>',
      ),
      peer: optional(
        list(vsockPeer),
        'vsock.peers',
        'Other VMs that the guest reaches by their context id, through their sockets; brackets only around several',
      ),
      max_connections: optional(integer, 'vsock.max_connections', 'Connections at most (65536)'),
      buf_alloc: optional(byteSize, 'vsock.buf_alloc', 'Bytes under way to the host on one connection at most (1M)'),
      poll_us: optional(integer, 'vsock.poll_us', 'Microseconds to look for work before sleeping; 0 is off (0)'),
      connect_timeout_ms: optional(
        integer,
        'vsock.connect_timeout_ms',
        'Milliseconds that the guest has to answer a connection of the host (2000)',
      ),
    },
    notSupported: PCI_KEYS_OF_ONLY_DEVICE,
    into: ({ cid, socket, peer: peers, ...limits }) => ({ vsock: { cid, socket, ...given({ peers, ...limits }) } }),
  }),
];
