// A host client of a VM's vsock socket, for end-to-end tests.

import { connect, type Socket } from 'node:net';
import type { Readable } from 'node:stream';

/** Connects to guest port `port` through the Unix socket at `path`; resolves once `OK <port>` has come. */
export function connectVsock(path: string, port: number): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect({ path, allowHalfOpen: true });
    let head = Buffer.alloc(0);
    const onData = (piece: Buffer): void => {
      head = Buffer.concat([head, piece]);
      const end = head.indexOf('\n');
      if (end < 0) return;
      const line = head.subarray(0, end).toString('latin1');
      socket.off('data', onData);
      socket.off('end', onEnd);
      socket.pause();
      if (!/^OK \d+$/.test(line)) {
        socket.destroy();
        reject(new Error(`expected OK and a port, got ${JSON.stringify(line)}`));
        return;
      }
      // Bytes behind the line belong to the connection.
      if (head.length > end + 1) socket.unshift(head.subarray(end + 1));
      resolve(socket);
    };
    const onEnd = (): void => {
      socket.destroy();
      reject(new Error(`port ${port}: closed before OK`));
    };
    socket.on('error', reject);
    socket.on('data', onData);
    socket.once('end', onEnd);
    socket.write(`CONNECT ${port}\n`);
  });
}

/** Everything that comes until the other side ends. Unlike an iteration, this leaves the writing side open. */
export function readAll(stream: Readable): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const pieces: Buffer[] = [];
    stream.on('data', (piece: Buffer) => pieces.push(piece));
    stream.once('end', () => {
      resolve(Buffer.concat(pieces));
    });
    stream.once('error', reject);
    // `connectVsock` has paused it, which a listener alone does not undo.
    stream.resume();
  });
}
