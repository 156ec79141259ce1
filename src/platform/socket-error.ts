// Whether a socket of Node's ended or was reset. Main thread.
//
// Node's event library takes a hang-up that it is told of along with the last bytes for the end, without reading on; so a
// connection that was reset right behind its last bytes looks as if it had ended in order. The kernel knows.

import type { Socket } from 'node:net';
import { libc } from './libc.js';
import { NativeBuffer } from './native-buffer.js';

const SOL_SOCKET = 1;
const SO_ERROR = 4;

let value: NativeBuffer | undefined;

/** The errno that the socket has and that nobody has read, 0 when there is none. Asked on 'end', and once. */
export function takeSocketError(socket: Socket): number {
  const fd = descriptorOf(socket);
  if (fd === undefined) return 0;
  value ??= new NativeBuffer(8);
  value.view.setInt32(0, 0, true);
  value.view.setUint32(4, 4, true);
  if (libc.getsockopt(fd, SOL_SOCKET, SO_ERROR, value.address, value.address + 4) < 0) return 0;
  return value.view.getInt32(0, true);
}

/** Node has no public name for it; without it every end is one. */
function descriptorOf(socket: Socket): number | undefined {
  const { _handle: handle } = socket as unknown as { readonly _handle?: { readonly fd?: unknown } | null };
  return typeof handle?.fd === 'number' && handle.fd >= 0 ? handle.fd : undefined;
}
