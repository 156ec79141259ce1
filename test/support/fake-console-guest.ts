// The guest's side of a virtio console's shared rings, played by a test: what the device's worker would do.

import { ConsoleHost } from '../../src/devices/console/host.js';
import { createConsoleShared } from '../../src/devices/console/settings.js';
import { createEventFd, signalEventFd } from '../../src/platform/eventfd.js';
import { close } from '../../src/platform/libc.js';
import { SharedRing } from '../../src/platform/shared-ring.js';

export class FakeConsoleGuest implements Disposable {
  readonly hostEvent = createEventFd();
  readonly host: ConsoleHost;
  private readonly tx: SharedRing;
  private readonly rx: SharedRing;
  /** What `print` still has to print: continued when the host has made room, as the device does. */
  private unprinted = Buffer.alloc(0);

  constructor(sizes?: Parameters<typeof createConsoleShared>[0]) {
    const shared = createConsoleShared(sizes);
    this.tx = new SharedRing(shared.tx);
    this.rx = new SharedRing(shared.rx);
    this.host = new ConsoleHost(shared, () => {
      this.continuePrinting();
    });
  }

  /** Whether all that was printed has found room. */
  get printed(): boolean {
    return this.unprinted.length === 0;
  }

  print(text: string | Buffer): void {
    this.unprinted = Buffer.concat([this.unprinted, Buffer.from(text)]);
    this.continuePrinting();
  }

  /** Everything that was typed and not read yet. */
  read(most = Number.MAX_SAFE_INTEGER): Buffer {
    const pieces: Buffer[] = [];
    let left = most;
    this.rx.drain((bytes) => {
      const count = Math.min(left, bytes.length);
      pieces.push(Buffer.from(bytes.subarray(0, count)));
      left -= count;
      return count;
    });
    if (this.rx.producerToWake()) signalEventFd(this.hostEvent);
    return Buffer.concat(pieces);
  }

  [Symbol.dispose](): void {
    close(this.hostEvent);
  }

  private continuePrinting(): void {
    while (this.unprinted.length > 0) {
      this.unprinted = this.unprinted.subarray(this.tx.put(this.unprinted));
      if (this.unprinted.length > 0 && this.tx.producerWaits()) break;
    }
    if (this.tx.consumerToWake()) signalEventFd(this.hostEvent);
  }
}
