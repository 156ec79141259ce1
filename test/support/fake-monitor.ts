// A monitor's vsock socket without a VM: takes `CONNECT <port>` and leads to a Unix socket, the local agent's for instance.

import { once } from 'node:events';
import { connect, createServer, type Server, type Socket } from 'node:net';

export class FakeMonitor {
  /** The ports that were asked for. */
  readonly ports: number[] = [];
  private readonly server: Server;
  private readonly sockets = new Set<Socket>();

  private constructor(answer: (port: number) => string | undefined) {
    this.server = createServer({ allowHalfOpen: true }, (client) => {
      this.keep(client);
      let head = Buffer.alloc(0);
      const onData = (piece: Buffer): void => {
        head = Buffer.concat([head, piece]);
        const end = head.indexOf('\n');
        if (end < 0) return;
        client.off('data', onData);
        client.pause();
        const port = Number(/^CONNECT (\d+)$/.exec(head.subarray(0, end).toString())?.[1]);
        this.ports.push(port);
        const target = answer(port);
        if (target === undefined) {
          client.end();
          return;
        }
        const guest = connect({ path: target, allowHalfOpen: true });
        this.keep(guest);
        // The guest may speak first, in the same piece as the answer.
        guest.once('readable', () => {
          client.write(
            Buffer.concat([Buffer.from('OK 1073741824\n'), (guest.read() as Buffer | null) ?? Buffer.alloc(0)]),
          );
          guest.pipe(client);
        });
        guest.write(head.subarray(end + 1));
        client.pipe(guest);
      };
      client.on('data', onData);
    });
  }

  /** Listens at `path`; `answer` says where a port leads, undefined that nobody is there. */
  static async listen(path: string, answer: (port: number) => string | undefined): Promise<FakeMonitor> {
    const monitor = new FakeMonitor(answer);
    monitor.server.listen(path);
    await once(monitor.server, 'listening');
    return monitor;
  }

  async close(): Promise<void> {
    for (const socket of this.sockets) socket.destroy();
    this.server.close();
    await once(this.server, 'close');
  }

  private keep(socket: Socket): void {
    this.sockets.add(socket);
    socket.on('error', () => undefined);
    socket.on('close', () => this.sockets.delete(socket));
  }
}
