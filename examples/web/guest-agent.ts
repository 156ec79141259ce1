// Connections of node:http to a web server in the guest: an `http.Agent` whose sockets are `vm.vsock` streams. Main
// thread. With it, `http.request({ agent, path })` reaches the guest; back-pressure and errors are those of any stream.
//
// There are no time limits (`timeout` of a request): a stream to a guest has none. Use an AbortSignal.

import { Agent, type AgentOptions } from 'node:http';
import type { Duplex } from 'node:stream';
import type { VmVsock } from '../../src/index.js';

const nothing = (): void => undefined;
/** What node:http asks of a TCP socket between two requests; here there is nothing to be done. */
const SOCKET_MANNERS = { timeout: 0, setKeepAlive: nothing, ref: nothing, unref: nothing };

type Done = (error: Error | null, stream: Duplex) => void;

/** Keeps connections for the next request unless told otherwise. `destroy` closes those that it keeps. */
export class GuestAgent extends Agent {
  private readonly vsock: VmVsock;
  private readonly port: number;

  constructor(vsock: VmVsock, port: number, options: AgentOptions = {}) {
    super({ keepAlive: true, ...options });
    this.vsock = vsock;
    this.port = port;
  }

  override createConnection(_options: unknown, done: Done = nothing): undefined {
    this.vsock.connect(this.port, { waitForDriver: true }).then(
      (stream) => {
        done(null, Object.assign(stream, SOCKET_MANNERS));
      },
      (error: unknown) => {
        // Node looks at the error first.
        (done as (error: Error) => void)(error as Error);
      },
    );
    return undefined;
  }
}
