// A console's end whose other side comes and goes: the client of a socket, whoever has a pseudo-terminal open. Main
// thread.
//
// While nobody is there, output goes to a backlog of 64 KiB, in which new bytes push the oldest out: the guest never
// waits for somebody who may not come, and who comes sees what was printed last. While somebody is there, nothing is
// dropped: a peer that does not read makes the guest wait.
//
// Input of a peer that leaves is read to its end first. A client that only ends its own output (`printf | socat`) goes on
// getting the guest's.

import { EAGAIN } from '../../platform/errno.js';
import { NonBlockingDuplex } from '../../platform/duplex.js';
import { NativeBuffer } from '../../platform/native-buffer.js';
import type { Fd } from '../../platform/units.js';
import { Backlog } from './backlog.js';
import type { ConsoleInput } from './host-end.js';

const READ_SIZE = 16 * 1024;
/** How often to look whether a peer is still there that has nothing more to say: no event tells that alone. */
const PROBE_MS = 200;

/** One peer, from its coming to its leaving. */
class PeerLink {
  private readonly duplex: NonBlockingDuplex;
  private readonly input: ConsoleInput;
  private readonly left: () => void;
  private readonly buffer = new NativeBuffer(READ_SIZE);
  private probe: NodeJS.Timeout | undefined;
  private outputGone = false;
  private closed = false;

  /** `fd` stays the caller's; `left` is called once, not before the constructor has returned. Throws SysError. */
  constructor(fd: Fd, input: ConsoleInput, left: () => void) {
    this.duplex = new NonBlockingDuplex(fd);
    this.input = input;
    this.left = left;
    this.duplex.whenReadable(this.readable);
  }

  /** How many bytes were taken (0: would block); undefined when the peer takes none any more. */
  write(bytes: Uint8Array): number | undefined {
    if (this.outputGone) return undefined;
    const count = this.duplex.write(bytes);
    if (count > 0) return count;
    if (count === 0 && !this.duplex.hungUp) return 0;
    this.outputGone = true;
    return undefined;
  }

  whenWritable(callback: () => void): void {
    this.duplex.whenWritable(callback);
  }

  /** Returns who waited to write. */
  close(): Iterable<() => void> {
    this.closed = true;
    clearInterval(this.probe);
    return this.duplex.close();
  }

  private readonly readable = (): void => {
    const count = this.duplex.read(this.buffer);
    if (count > 0) {
      void this.input(this.buffer.bytes.subarray(0, count)).then(() => {
        if (!this.closed) this.duplex.whenReadable(this.readable);
      });
    } else if (count === -EAGAIN) {
      this.duplex.whenReadable(this.readable);
    } else if (count === 0 && !this.duplex.hungUp) {
      this.probe = setInterval(() => {
        if (this.outputGone || this.duplex.hungUp) this.left();
      }, PROBE_MS);
      this.probe.unref();
    } else {
      this.left();
    }
  };
}

/** Output to the peer that is there, or to the backlog; input from it. */
export class PeerEnd {
  private readonly input: ConsoleInput;
  private readonly backlog = new Backlog();
  private link: PeerLink | undefined;

  constructor(input: ConsoleInput) {
    this.input = input;
  }

  get attached(): boolean {
    return this.link !== undefined;
  }

  /** Serves the peer at `fd`, which stays the caller's, until it leaves; then `left` is called. Throws SysError. */
  attach(fd: Fd, left: () => void): void {
    this.link = new PeerLink(fd, this.input, () => {
      this.detach();
      left();
    });
    this.flushBacklog();
  }

  /** Ends the present peer, if any, without a word to anybody. */
  detach(): void {
    const writers = this.link?.close() ?? [];
    this.link = undefined;
    for (const writer of writers) writer();
  }

  write(bytes: Uint8Array): number {
    const { link, backlog } = this;
    if (link !== undefined) {
      if (backlog.length > 0 && !this.flushBacklog()) return 0;
      const count = link.write(bytes);
      if (count !== undefined) return count;
    }
    backlog.push(bytes);
    return bytes.length;
  }

  whenWritable(callback: () => void): void {
    if (this.link === undefined) setImmediate(callback);
    else this.link.whenWritable(callback);
  }

  /** Returns whether the peer need not be waited for: it has everything, or takes nothing. */
  private readonly flushBacklog = (): boolean => {
    const { link, backlog } = this;
    if (link === undefined) return true;
    while (backlog.length > 0) {
      const count = link.write(backlog.peek());
      if (count === undefined) return true;
      if (count === 0) {
        link.whenWritable(this.flushBacklog);
        return false;
      }
      backlog.drop(count);
    }
    return true;
  };
}
