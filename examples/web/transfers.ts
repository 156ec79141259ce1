// Streams that give the plot something to show. Main thread. Each is bounded, heeds back-pressure both ways, and is checked:
// a transfer is done when all bytes went through, not when the stream ended.

import { once } from 'node:events';
import { request, type IncomingMessage } from 'node:http';
import type { Vm } from '../../src/index.js';
import type { GuestAgent } from './guest-agent.js';
import type { Transfer, TransferRequest } from './messages.js';

const ECHO = 7;
const DISCARD = 9;

const MAX_RUNNING = 4;
/** Ended ones that are still shown. */
const MAX_SHOWN = 4;
export const MAX_TRANSFER_BYTES = 64 * 2 ** 30;

const BLOCK = Buffer.alloc(64 * 1024, 'tsvmm ');

/** Reports progress: so many bytes more. */
type Count = (bytes: number) => void;

/** Too many are under way. */
export class BusyError extends Error {}

class Running {
  done = 0;
  ended: Pick<Transfer, 'state' | 'problem' | 'elapsed'> | undefined;
  readonly stop = new AbortController();
  readonly id: number;
  private readonly asked: TransferRequest;
  private readonly begun = performance.now();

  constructor(id: number, asked: TransferRequest) {
    this.id = id;
    this.asked = asked;
  }

  get elapsed(): number {
    return performance.now() - this.begun;
  }

  describe(): Transfer {
    const { id, asked, done, elapsed } = this;
    return { id, ...asked, done, ...(this.ended ?? { state: 'running', elapsed }) };
  }
}

/** The transfers of one VM. `changed` is called when one begins or ends. */
export class Transfers {
  private readonly vm: Vm;
  private readonly agent: GuestAgent;
  private readonly changed: () => void;
  private list: Running[] = [];
  private nextId = 1;

  constructor(vm: Vm, agent: GuestAgent, changed: () => void) {
    this.vm = vm;
    this.agent = agent;
    this.changed = changed;
  }

  get active(): boolean {
    return this.list.some(({ ended }) => ended === undefined);
  }

  describe(): Transfer[] {
    return this.list.map((transfer) => transfer.describe());
  }

  /** Begins one, and returns its number. Throws BusyError. */
  begin(asked: TransferRequest): number {
    const running = this.list.filter(({ ended }) => ended === undefined);
    if (running.length >= MAX_RUNNING)
      throw new BusyError(`${MAX_RUNNING} transfers are under way; wait for one to end`);
    const transfer = new Running(this.nextId++, asked);
    const before = this.list.filter(({ ended }) => ended !== undefined).slice(-MAX_SHOWN);
    this.list = [...before, ...running, transfer].sort((a, b) => a.id - b.id);
    void this.carryOut(transfer, asked);
    this.changed();
    return transfer.id;
  }

  /** Stops one; false when it is not under way. */
  stop(id: number): boolean {
    const transfer = this.list.find((each) => each.id === id && each.ended === undefined);
    transfer?.stop.abort();
    return transfer !== undefined;
  }

  private async carryOut(transfer: Running, { kind, bytes }: TransferRequest): Promise<void> {
    const { signal } = transfer.stop;
    const count: Count = (more) => {
      transfer.done += more;
    };
    let state: Transfer['state'] = 'done';
    let problem: string | undefined;
    try {
      if (kind === 'from-guest') await this.readBytes(bytes, count, signal);
      else await this.exchange(kind === 'echo' ? ECHO : DISCARD, bytes, count, signal);
    } catch (error) {
      state = signal.aborted ? 'stopped' : 'failed';
      problem = error instanceof Error ? error.message : String(error);
    }
    transfer.ended = {
      state,
      elapsed: transfer.elapsed,
      ...(state === 'failed' && problem !== undefined && { problem }),
    };
    this.changed();
  }

  private async readBytes(bytes: number, count: Count, signal: AbortSignal): Promise<void> {
    const asked = request({ agent: this.agent, host: 'guest', path: `/bytes/${bytes}`, signal });
    asked.end();
    const [answer] = (await once(asked, 'response')) as [IncomingMessage];
    if (answer.statusCode !== 200) {
      answer.destroy();
      throw new Error(`the guest answered ${answer.statusCode}`);
    }
    // Fails when the guest ends before it has sent as much as it promised.
    for await (const piece of answer) count((piece as Buffer).length);
  }

  /** Writes to a port of the guest until it has everything; with echo, what comes back is what counts. */
  private async exchange(port: number, bytes: number, count: Count, signal: AbortSignal): Promise<void> {
    const stream = await this.vm.vsock.connect(port, { signal, waitForDriver: true });
    const abort = (): void => void stream.destroy();
    signal.addEventListener('abort', abort);
    // Whoever awaits the loop below hears of it.
    stream.on('error', () => undefined);
    try {
      let returned = 0;
      const reading = (async () => {
        for await (const piece of stream) {
          returned += (piece as Buffer).length;
          if (port === ECHO) count((piece as Buffer).length);
        }
      })();
      // Until the writing is through; the end of both is awaited below.
      reading.catch(() => undefined);
      for (let left = bytes; left > 0; left -= BLOCK.length) {
        const block = BLOCK.subarray(0, left);
        if (!stream.write(block)) await once(stream, 'drain', { signal });
        if (port === DISCARD) count(block.length);
      }
      stream.end();
      await reading;
      if (port === ECHO && returned !== bytes) throw new Error(`${returned} of ${bytes} bytes came back`);
    } finally {
      signal.removeEventListener('abort', abort);
      stream.destroy();
    }
  }
}
