// Taps: Ethernet interfaces of the host whose other end is a descriptor, through /dev/net/tun. Each descriptor is one
// queue of the tap, and reads and writes one frame a call, with a virtio-net header of VNET_HEADER_SIZE bytes before it.
//
// Opened on the main thread, used in the I/O worker. A tap belongs to the network namespace of the thread that opened
// it. Left out: tun (frames without Ethernet), persistence (`ip tuntap add` makes taps that stay), eBPF steering.

import { check, close, libc, O_NONBLOCK, O_RDWR, open, orErrno } from './libc.js';
import { EINVAL, SysError } from './errno.js';
import { NativeBuffer } from './native-buffer.js';
import { InterfaceRequest, NetInterface } from './net-interface.js';
import type { Fd } from './units.js';

export const TUN_PATH = '/dev/net/tun';

const TUNSETIFF = 0x4004_54ca;
const TUNSETOFFLOAD = 0x4004_54d0;
const TUNSETVNETHDRSZ = 0x4004_54d8;
const TUNSETQUEUE = 0x4004_54d9;

const IFF_TAP = 0x0002;
const IFF_MULTI_QUEUE = 0x0100;
const IFF_ATTACH_QUEUE = 0x0200;
const IFF_DETACH_QUEUE = 0x0400;
const IFF_NO_PI = 0x1000;
const IFF_VNET_HDR = 0x4000;

/** struct virtio_net_hdr_mrg_rxbuf: virtio 1's header is this one, whatever was negotiated (5.1.6). */
export const VNET_HEADER_SIZE = 12;

// What the reader of a tap can take: TUNSETOFFLOAD. Without a bit, the host does that work before the frame is read.
export const TUN_F_CSUM = 0x01;
export const TUN_F_TSO4 = 0x02;
export const TUN_F_TSO6 = 0x04;
export const TUN_F_TSO_ECN = 0x08;
export const TUN_F_UFO = 0x10;

/** A tap that was opened; the caller owns the descriptors, which do not block. */
export interface OpenTap {
  readonly name: string;
  readonly queues: readonly Fd[];
  /** Whether it came with this call, and goes with the last of its descriptors. */
  readonly created: boolean;
}

/**
 * Opens `count` queues of the tap `name`; without a name the kernel chooses one. A tap that does not exist is created. Throws
 * SysError: of `open` when there is no /dev/net/tun or no access to it; of `ioctl TUNSETIFF` with EPERM (not this user's),
 * EBUSY (all its queues are taken), EINVAL (no tap, or one without several queues).
 */
export function openTap(name: string | undefined, count: number): OpenTap {
  const queues: Fd[] = [];
  try {
    const created = name === undefined || !exists(name);
    let actual = name ?? 'tap%d';
    for (let index = 0; index < count; index++) {
      const fd = open(TUN_PATH, O_RDWR | O_NONBLOCK);
      queues.push(fd);
      actual = attach(fd, actual, count > 1);
      setHeaderSize(fd);
    }
    return { name: actual, queues, created };
  } catch (error) {
    for (const fd of queues) close(fd);
    throw error;
  }
}

function exists(name: string): boolean {
  using candidate = new NetInterface(name);
  return candidate.exists();
}

/** Makes `fd` a queue of the tap, and returns its name. */
function attach(fd: Fd, name: string, multiQueue: boolean): string {
  const request = new InterfaceRequest(name);
  const set = (flags: number): number => {
    request.setFlags(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | flags);
    return orErrno(libc.ioctl(fd, TUNSETIFF, request.memory.address));
  };
  let result = set(multiQueue ? IFF_MULTI_QUEUE : 0);
  // A tap made for several queues is opened as such even by somebody who needs one.
  if (result === -EINVAL && !multiQueue) result = set(IFF_MULTI_QUEUE);
  if (result < 0) throw new SysError('ioctl TUNSETIFF', -result, name);
  return request.name;
}

function setHeaderSize(fd: Fd): void {
  const size = new NativeBuffer(4);
  size.setU32(0, VNET_HEADER_SIZE);
  check(libc.ioctl(fd, TUNSETVNETHDRSZ, size.address), 'ioctl TUNSETVNETHDRSZ');
}

/** Says what the reader of the tap, of all its queues, can take: a mask of TUN_F_…. 0, or the negative errno. */
export function trySetOffload(fd: Fd, mask: number): number {
  return orErrno(libc.ioctl(fd, TUNSETOFFLOAD, mask));
}

/** Lets a queue of a tap with several take part, or not: 0, or the negative errno. What waits in it is dropped. */
export function trySetQueueAttached(fd: Fd, attached: boolean): number {
  const request = new InterfaceRequest('');
  request.setFlags(attached ? IFF_ATTACH_QUEUE : IFF_DETACH_QUEUE);
  return orErrno(libc.ioctl(fd, TUNSETQUEUE, request.memory.address));
}
