// A console at a pseudo-terminal of its own, which any terminal program may open, close and open again. Main thread.
//
// Reading the master gives EIO while nobody has the other side open, and nothing tells when somebody opens it: so a timer
// looks, and only meanwhile.

import { pollDescriptor } from '../../platform/duplex.js';
import { SysError } from '../../platform/errno.js';
import { close } from '../../platform/libc.js';
import { openPseudoTerminal, openTerminal } from '../../platform/terminal.js';
import { bytesWaiting } from '../../platform/unix-socket.js';
import type { Fd } from '../../platform/units.js';
import { VmError } from '../errors.js';
import type { ConsoleInput, HostEnd } from './host-end.js';
import { PeerEnd } from './peer-end.js';

const LOOK_MS = 200;

export class PtyEnd implements HostEnd {
  readonly path: string;
  private readonly master: Fd;
  private readonly peer: PeerEnd;
  private timer: NodeJS.Timeout | undefined;
  /** The other side, opened by ourselves at the end to see whether everything was read. */
  private slave: Fd | undefined;

  /** Throws VmError HOST_PATH, which names `option`. */
  constructor(option: string, input: ConsoleInput) {
    try {
      ({ master: this.master, path: this.path } = openPseudoTerminal());
    } catch (error) {
      if (!(error instanceof SysError)) throw error;
      throw new VmError(
        'HOST_PATH',
        `${option} pty: no pseudo-terminal can be made (${error.message})`,
        'see that /dev/ptmx and /dev/pts are there, or use a socket instead',
        error,
      );
    }
    this.peer = new PeerEnd(input);
    this.lookForOpener();
  }

  /** Closing the master takes from whoever has the other side open what it has not read yet. */
  get settled(): boolean {
    if (!this.peer.attached) return true;
    if (this.slave === undefined) {
      try {
        this.slave = openTerminal(this.path);
      } catch {
        return true; // No descriptors left, say: there is no telling then.
      }
      // What was written a moment ago is still on its way to where it is counted: look again.
      return false;
    }
    return bytesWaiting(this.slave) === 0;
  }

  write(bytes: Uint8Array): number {
    return this.peer.write(bytes);
  }

  whenWritable(callback: () => void): void {
    this.peer.whenWritable(callback);
  }

  close(): void {
    clearInterval(this.timer);
    this.peer.detach();
    if (this.slave !== undefined) close(this.slave);
    close(this.master);
  }

  private lookForOpener(): void {
    this.timer = setInterval(() => {
      const { readable, hungUp } = pollDescriptor(this.master);
      // Readable and hung up: somebody has come, typed and gone between two looks.
      if (hungUp && !readable) return;
      try {
        this.peer.attach(this.master, () => {
          this.lookForOpener();
        });
        clearInterval(this.timer);
      } catch (error) {
        // No descriptors left: the next look tries again.
        if (!(error instanceof SysError)) throw error;
      }
    }, LOOK_MS);
    this.timer.unref();
  }
}
