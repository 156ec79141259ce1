// Streams between this process and a guest, as the library shows them. Main thread.

import { MAX_GUEST_CID, MIN_GUEST_CID } from '../config/rules/vsock.js';
import type { ConnectionInfo } from '../vsock/connection-info.js';
import { VsockCounters, type VsockCounterSnapshot } from '../vsock/counters.js';
import type { ConnectOptions, VsockHost } from '../vsock/in-process/host.js';
import type { VsockServer } from '../vsock/in-process/server.js';
import type { VsockStream } from '../vsock/in-process/stream.js';

/** Streams between this process and the guest, without a socket in the file system. `vm.vsock` is one. */
export class VmVsock {
  private readonly host: VsockHost;
  private readonly counterMemory: SharedArrayBuffer;
  private guestCid: number;

  /** @internal */
  constructor(host: VsockHost, counterMemory: SharedArrayBuffer) {
    this.host = host;
    this.counterMemory = counterMemory;
    this.guestCid = host.cid;
  }

  /** The guest's context id. */
  get cid(): number {
    return this.guestCid;
  }

  /**
   * Opens a stream to port `port` of the guest. Rejects with VsockError DRIVER_NOT_READY when the guest's driver is not up and
   * `waitForDriver` is not given, REFUSED when nobody listens there, TIMED_OUT, ABORTED, LIMIT, or CLOSED with the VM; with
   * RangeError for arguments that cannot be.
   *
   * @example
   * ```ts
   * import { Vm } from 'tsvmm';
   *
   * await using vm = await Vm.create({ serial: { mode: 'Null' }, vsock: { cid: 3 } });
   * await vm.start();
   * const stream = await vm.vsock.connect(7, { waitForDriver: true, timeout: 10_000 });
   * stream.end('hello\n');
   * for await (const piece of stream) process.stdout.write(piece);
   * ```
   */
  connect(port: number, options?: ConnectOptions): Promise<VsockStream> {
    return this.host.connect(port, options);
  }

  /**
   * Serves connections of the guest to (CID 2, `port`) in this process; they do not go to a Unix socket then. May be
   * called before the VM starts. Without `onConnection`, listen to 'connection' or iterate. Throws VsockError PORT_IN_USE when
   * this process serves that port already, CLOSED when the VM has ended, and RangeError for a port that cannot be.
   *
   * @example
   * ```ts
   * import { Vm } from 'tsvmm';
   *
   * await using vm = await Vm.create({ vsock: { cid: 3 } });
   * const server = vm.vsock.listen(5000, (stream) => stream.pipe(stream));
   * await vm.start();
   * await vm.exited;
   * server.close();
   * ```
   */
  listen(port: number, onConnection?: (stream: VsockStream) => void): VsockServer {
    return this.host.listen(port, onConnection);
  }

  /**
   * Lets this guest and that of `other`, a VM of this process with another CID, reach each other by their CIDs, without
   * a socket. Throws VsockError NO_DEVICE, or RangeError when the CIDs are the same.
   */
  join(other: { readonly vsock: VmVsock }): void {
    const here = this.host;
    const there = other.vsock.host;
    if (here.cid === there.cid) throw new RangeError(`two guests with CID ${here.cid} cannot tell each other apart`);
    here.addSibling(there);
    there.addSibling(here);
  }

  /**
   * What the device has counted since the VM was created: Numbers, exact up to 2^53, read without asking the worker. One
   * may be a moment ahead of another.
   */
  counters(): VsockCounterSnapshot {
    return new VsockCounters(this.counterMemory).snapshot();
  }

  /** The guest's connections at present; while the VM is paused, not before it is resumed. Rejects with VsockError CLOSED. */
  connections(): Promise<readonly ConnectionInfo[]> {
    return this.host.connections();
  }

  /**
   * Gives the guest another context id while it runs. All its connections end; a driver that is up is told to read the
   * new one (TRANSPORT_RESET), a later one finds it. Throws RangeError for an id that a guest cannot have. Other VMs
   * know the guest by its first one.
   */
  setGuestCid(cid: number): void {
    if (!Number.isInteger(cid) || cid < MIN_GUEST_CID || cid > MAX_GUEST_CID) {
      throw new RangeError(
        `${cid} is not a context id that a guest can have; use ${MIN_GUEST_CID} to ${MAX_GUEST_CID}`,
      );
    }
    this.guestCid = cid;
    this.host.setGuestCid(cid);
  }
}
