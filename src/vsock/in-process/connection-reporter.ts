// Tells the main thread of connections that come and go, for those who watch them.
//
// Runs in the I/O worker. A guest can open and close connections faster than anybody reads of them, and a message port has
// no bound of its own. So one message is under way at a time, what happens meanwhile is collected for the next one, and
// what is too much for that is only counted.

import type { ConnectionInfo } from '../connection-info.js';
import type { EndReason } from '../endpoint.js';
import type { ConnectionObserver } from '../muxer.js';
import type { ConnectionChange, WorkerMessage } from './messages.js';

/** Changes that one message may carry: some hundred KiB. */
export const CHANGES_LIMIT = 1024;

export class ConnectionReporter implements ConnectionObserver {
  private readonly send: (message: WorkerMessage) => void;
  private changes: ConnectionChange[] = [];
  private missed = 0;
  private underWay = false;

  constructor(send: (message: WorkerMessage) => void) {
    this.send = send;
  }

  opened(connection: ConnectionInfo): void {
    this.report({ connection, reason: undefined });
  }

  ended(connection: ConnectionInfo, reason: EndReason): void {
    this.report({ connection, reason });
  }

  /** The main thread has taken the last message. */
  heard(): void {
    this.underWay = false;
    if (this.changes.length > 0) this.flush();
  }

  private report(change: ConnectionChange): void {
    if (this.changes.length < CHANGES_LIMIT) this.changes.push(change);
    else this.missed++;
    if (!this.underWay) this.flush();
  }

  private flush(): void {
    const { changes, missed } = this;
    this.changes = [];
    this.missed = 0;
    this.underWay = true;
    this.send({ op: 'changes', changes, missed });
  }
}
