// Rules for the vsock device: which context ids a guest can have (virtio 1.2, 5.10.4), and that the socket's path
// leaves room for the port suffix of guest-initiated connections. Peers are other guests: each has a CID of its own. Their
// sockets need not exist yet, since a guest may start before its sibling.

import { KIB, MIB } from '../../platform/units.js';
import type { VsockConfig, VsockPeerConfig } from '../vm-config.js';
import { showValue } from '../config-error.js';
import { checkCreatable, SUN_PATH_SIZE } from './files.js';
import { checkCount, type Range } from './numbers.js';
import type { Complain } from './rule.js';

/** The lowest context id that a guest can have; those below mean something else. */
export const MIN_GUEST_CID = 3;
/** The highest: the one above is VMADDR_CID_ANY. */
export const MAX_GUEST_CID = 0xffff_fffe;

/** A guest-initiated connection to port P goes to `<socket>_P`. */
const LONGEST_PORT_SUFFIX = '_4294967295';
export const MAX_SOCKET_PATH_BYTES = SUN_PATH_SIZE - 1 - LONGEST_PORT_SUFFIX.length;

const RESERVED_CIDS: ReadonlyMap<number, string> = new Map([
  [0, '0 is reserved (VMADDR_CID_HYPERVISOR)'],
  [1, '1 is the loopback of whoever uses it (VMADDR_CID_LOCAL)'],
  [2, '2 is the host itself (VMADDR_CID_HOST)'],
  [0xffff_ffff, '4294967295 means any context (VMADDR_CID_ANY)'],
]);

export function checkVsock(vsock: VsockConfig, complain: Complain): void {
  checkCid('vsock.cid', vsock.cid, complain);
  if (vsock.socket !== undefined) checkSocketPath(vsock.socket, complain);
  checkPeers(vsock.peers ?? [], vsock.cid, complain);
  for (const limit of LIMITS) {
    const value = vsock[limit.key];
    if (value !== undefined) checkCount(complain, `vsock.${limit.key}`, value, limit);
  }
}

type LimitKey = 'max_connections' | 'buf_alloc' | 'poll_us' | 'connect_timeout_ms';

interface Limit extends Range {
  readonly key: LimitKey;
}

const LIMITS: readonly Limit[] = [
  // The worker's descriptors are the bound long before; a number beyond this is a slip.
  { key: 'max_connections', unit: 'connections', min: 1, max: 1_048_576 },
  // A packet of Linux fits the least; above the most, what one guest can make the host hold is out of proportion.
  { key: 'buf_alloc', unit: 'bytes', min: 4 * KIB, max: 64 * MIB },
  // Beyond 10 ms of polling a sleep costs nothing in comparison.
  { key: 'poll_us', unit: 'microseconds', min: 0, max: 10_000 },
  { key: 'connect_timeout_ms', unit: 'milliseconds', min: 1, max: 600_000 },
];

function checkPeers(peers: readonly VsockPeerConfig[], ownCid: number, complain: Complain): void {
  const field = 'vsock.peers';
  const seen = new Set<number>();
  for (const { cid, socket } of peers) {
    checkCid(field, cid, complain);
    if (cid === ownCid) {
      const problem = `${cid} is the context id of the guest itself`;
      complain(field, cid, { code: 'CONFLICT', problem, mend: 'Give every guest a context id of its own.' });
    }
    if (seen.has(cid)) {
      const problem = `there are two peers with context id ${cid}`;
      complain(field, cid, { code: 'DUPLICATE', problem, mend: 'Name each peer once.' });
    }
    seen.add(cid);
    checkPeerSocket(field, socket, complain);
  }
}

function checkPeerSocket(field: string, socket: string, complain: Complain): void {
  if (socket === '') {
    complain(field, socket, {
      code: 'MISSING_VALUE',
      problem: 'the path of a peer is empty',
      mend: 'Name its socket.',
    });
  }
  if (socket.includes('\0')) {
    complain(field, socket, {
      code: 'UNUSABLE_FILE',
      problem: `${showValue(socket)} holds a NUL byte, which no path can`,
      mend: 'Take it out.',
    });
  }
  const length = Buffer.byteLength(socket);
  if (length >= SUN_PATH_SIZE) {
    complain(field, socket, {
      code: 'TOO_LONG',
      problem: `the path of a peer has ${length} bytes, which do not fit a Unix socket address`,
      mend: `Use a path of at most ${SUN_PATH_SIZE - 1} bytes.`,
    });
  }
}

function checkCid(field: string, cid: number, complain: Complain): void {
  const mend = `Use ${MIN_GUEST_CID} to ${MAX_GUEST_CID}.`;
  const reserved = RESERVED_CIDS.get(cid);
  if (reserved !== undefined) complain(field, cid, { code: 'RESERVED', problem: reserved, mend });
  if (!Number.isInteger(cid)) {
    complain(field, cid, { code: 'WRONG_TYPE', problem: `${cid} is not a whole number`, mend });
  }
  if (cid < 0) complain(field, cid, { code: 'OUT_OF_RANGE', problem: `${cid} is negative`, mend });
  if (cid > MAX_GUEST_CID) {
    complain(field, cid, {
      code: 'OUT_OF_RANGE',
      problem: `${cid} is too large: a context id here has 32 bits`,
      mend,
    });
  }
}

function checkSocketPath(socket: string, complain: Complain): void {
  const length = Buffer.byteLength(socket);
  if (length > MAX_SOCKET_PATH_BYTES) {
    complain('vsock.socket', socket, {
      code: 'TOO_LONG',
      problem:
        `the path has ${length} bytes, and with a port suffix (${LONGEST_PORT_SUFFIX}) it would not fit the ` +
        `${SUN_PATH_SIZE} bytes of a Unix socket address`,
      mend: `Use a path of at most ${MAX_SOCKET_PATH_BYTES} bytes.`,
    });
  }
  checkCreatable(complain, 'vsock.socket', socket);
}
