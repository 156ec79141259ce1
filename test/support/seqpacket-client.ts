// A host client of a VM's SEQPACKET socket, for end-to-end tests: Node has no such sockets.

import { setTimeout as sleep } from 'node:timers/promises';
import { EAGAIN } from '../../src/platform/errno.js';
import { check, close, libc, orErrno } from '../../src/platform/libc.js';
import { NativeBuffer } from '../../src/platform/native-buffer.js';
import {
  SHUT_WR,
  SOCK_SEQPACKET,
  tryConnect,
  tryShutdown,
  trySocket,
  UnixAddress,
} from '../../src/platform/unix-socket.js';
import type { Fd } from '../../src/platform/units.js';

const LONGEST = 256 * 1024;
/** Nothing tells this process of a descriptor that Node does not know: it looks again. */
const LOOK_MS = 2;

const scratch = new NativeBuffer(LONGEST);

export class SeqpacketClient implements Disposable {
  private readonly fd: Fd;

  private constructor(fd: Fd) {
    this.fd = fd;
  }

  /** Connects to guest port `port` through the VM whose socket is `<path>`; rejects when the guest refuses. */
  static async connect(path: string, port: number): Promise<SeqpacketClient> {
    const client = new SeqpacketClient(check(trySocket(SOCK_SEQPACKET), 'socket') as Fd);
    try {
      const result = tryConnect(client.fd, new UnixAddress(`${path}.seqpacket`));
      if (result < 0) throw new Error(`connect ${path}.seqpacket: errno ${-result}`);
      await client.send(`CONNECT ${port}\n`);
      const answer = await client.receive();
      if (!/^OK \d+\n$/.test(String(answer))) throw new Error(`port ${port}: ${String(answer)} in place of OK`);
      return client;
    } catch (error) {
      client[Symbol.dispose]();
      throw error;
    }
  }

  async send(message: string | Uint8Array): Promise<void> {
    const bytes = Buffer.from(message);
    for (;;) {
      scratch.bytes.set(bytes);
      const result = orErrno(libc.write(this.fd, scratch.address, bytes.length));
      if (result >= 0) return;
      if (result !== -EAGAIN) throw new Error(`write: errno ${-result}`);
      await sleep(LOOK_MS);
    }
  }

  /** The next message; undefined at the end. */
  async receive(): Promise<Buffer | undefined> {
    for (;;) {
      const result = orErrno(libc.read(this.fd, scratch.address, LONGEST));
      if (result > 0) return Buffer.from(scratch.bytes.subarray(0, result));
      if (result === 0) return undefined;
      if (result !== -EAGAIN) throw new Error(`read: errno ${-result}`);
      await sleep(LOOK_MS);
    }
  }

  /** Sends no more. */
  end(): void {
    tryShutdown(this.fd, SHUT_WR);
  }

  [Symbol.dispose](): void {
    close(this.fd);
  }
}
