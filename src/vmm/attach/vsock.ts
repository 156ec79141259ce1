// The vsock device on the main thread: its sockets, and the host of the streams inside this process.

import type { VsockConfig } from '../../config/vm-config.js';
import { SOCK_SEQPACKET, SOCK_STREAM, type SocketType } from '../../platform/unix-socket.js';
import type { Fd } from '../../platform/units.js';
import { VsockHost } from '../../vsock/in-process/host.js';
import { vsockIdentity } from '../../vsock/settings.js';
import { HostSocket } from '../host-socket.js';
import { registerSibling } from '../siblings.js';
import type { VsockSettings } from '../vsock-settings.js';
import type { AttachContext, AttachedDevice } from './attached-device.js';

export interface AttachedVsock {
  readonly device: AttachedDevice<VsockSettings>;
  readonly host: VsockHost;
}

export interface VsockInsight {
  readonly counters: SharedArrayBuffer;
  readonly logConnections: boolean;
}

/** Takes the sockets. Throws VmError SOCKET_IN_USE or HOST_PATH. */
export function attachVsock(config: VsockConfig, insight: VsockInsight, { resources }: AttachContext): AttachedVsock {
  const listenAt = (path: string, type: SocketType): Fd =>
    resources.own(new HostSocket('--vsock', path, { type }), (socket) => {
      socket.close();
    }).fd;
  const { socket, cid: guestCid, peers } = config;
  const listener = socket === undefined ? undefined : listenAt(socket, SOCK_STREAM);
  // A socket has one type for good, so SEQPACKET clients need one of their own.
  const seqpacketListener = socket === undefined ? undefined : listenAt(`${socket}.seqpacket`, SOCK_SEQPACKET);
  const host = resources.own(new VsockHost(guestCid), (streams) => {
    streams.close();
  });
  resources.own(registerSibling(host, config), (leave) => {
    leave();
  });
  const settings: VsockSettings = {
    kind: 'vsock',
    guestCid,
    socketPath: socket,
    listener,
    seqpacketListener,
    inProcess: host.handles,
    peers,
    maxConnections: config.max_connections,
    bufAlloc: config.buf_alloc,
    connectTimeoutMs: config.connect_timeout_ms,
    ...insight,
  };
  const identity = vsockIdentity(guestCid);
  const busyPollMicroseconds = config.poll_us ?? 0;
  return { device: { id: 'vsock', identity, settings, counterNames: [], busyPollMicroseconds }, host };
}
