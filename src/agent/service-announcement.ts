// Has the agent listen in the guest for one service: a session that lasts as long as it does. When it breaks off, because the
// guest rebooted, was restored or its agent was killed, it is made anew when the agent calls, or after a pause while the
// agent is there. Main thread.

import { AgentError, messageOf } from './errors.js';
import { FRAME, words } from './protocol.js';
import { AgentSession, unexpected } from './session.js';
import type { AgentTransport } from './transport.js';

const FIRST_PAUSE_MS = 1000;
const LONGEST_PAUSE_MS = 64_000;

export interface AnnouncingAgent {
  readonly transport: AgentTransport;
  readonly port: number;
  readonly isUp: () => boolean;
}

interface Waiter {
  readonly resolve: () => void;
  readonly reject: (error: Error) => void;
}

export class ServiceAnnouncement {
  private readonly agent: AnnouncingAgent;
  private readonly request: Buffer;
  private readonly onError: (error: unknown) => void;
  private readonly waiters = new Set<Waiter>();
  private readonly stopping = new AbortController();
  private session: AgentSession | undefined;
  private state: 'idle' | 'asking' | 'listening' | 'closed' = 'idle';
  private timer: NodeJS.Timeout | undefined;
  private pauseMs = FIRST_PAUSE_MS;
  private lastComplaint: string | undefined;

  /** `onError` hears why the guest does not listen, but for its agent not being there; once for each reason. */
  constructor(
    agent: AnnouncingAgent,
    { name, guestPort = 0 }: { readonly name: string; readonly guestPort: number | undefined },
    onError: (error: unknown) => void,
  ) {
    this.agent = agent;
    this.request = Buffer.concat([words(guestPort), Buffer.from(name)]);
    this.onError = onError;
  }

  /** Asks the agent, unless that has been done. */
  start(): void {
    if (this.state !== 'idle') return;
    clearTimeout(this.timer);
    this.state = 'asking';
    void this.run();
  }

  async waitListening({
    timeout,
    signal,
  }: {
    readonly timeout?: number;
    readonly signal?: AbortSignal;
  }): Promise<void> {
    if (this.state === 'listening') return;
    if (this.state === 'closed') throw gone();
    if (signal?.aborted === true) throw aborted(signal);
    let timer: NodeJS.Timeout | undefined;
    let onAbort: (() => void) | undefined;
    let waiter: Waiter | undefined;
    try {
      await new Promise<void>((resolve, reject) => {
        waiter = { resolve, reject };
        this.waiters.add(waiter);
        if (timeout !== undefined) {
          timer = setTimeout(() => {
            reject(new AgentError('TIMEOUT', `the guest does not listen for the service after ${timeout} ms`));
          }, timeout);
        }
        onAbort = () => {
          reject(aborted(signal));
        };
        signal?.addEventListener('abort', onAbort);
      });
    } finally {
      clearTimeout(timer);
      if (onAbort !== undefined) signal?.removeEventListener('abort', onAbort);
      if (waiter !== undefined) this.waiters.delete(waiter);
    }
  }

  close(): void {
    this.state = 'closed';
    clearTimeout(this.timer);
    this.stopping.abort();
    this.session?.close();
    for (const { reject } of this.waiters) reject(gone());
  }

  private async run(): Promise<void> {
    try {
      await this.listen();
    } catch (error) {
      this.session?.destroy();
      this.session = undefined;
      if (this.isClosed()) return;
      this.state = 'idle';
      this.complain(error);
      if (this.agent.isUp()) this.retryLater();
    }
  }

  /** Returns never; throws when the guest listens no more, or does not begin to. */
  private async listen(): Promise<never> {
    const { transport, port } = this.agent;
    const session = await AgentSession.open(transport, port, { signal: this.stopping.signal });
    this.session = session;
    session.send(FRAME.SERVE, this.request);
    await session.expect(FRAME.SERVING);
    if (!this.isClosed()) {
      this.state = 'listening';
      this.pauseMs = FIRST_PAUSE_MS;
      this.lastComplaint = undefined;
      for (const { resolve } of this.waiters) resolve();
    }
    throw unexpected(await session.receive());
  }

  private complain(error: unknown): void {
    const code = error instanceof AgentError ? error.code : undefined;
    // That the guest is not there, or has gone, is no news of the service.
    if (code === 'AGENT_MISSING' || code === 'GUEST_GONE') return;
    const message = messageOf(error);
    for (const { reject } of this.waiters) reject(error instanceof Error ? error : new Error(message));
    if (message === this.lastComplaint) return;
    this.lastComplaint = message;
    this.onError(error);
  }

  private retryLater(): void {
    this.timer = setTimeout(() => {
      this.start();
    }, this.pauseMs);
    this.timer.unref();
    this.pauseMs = Math.min(2 * this.pauseMs, LONGEST_PAUSE_MS);
  }

  /** A method, since it changes while one waits. */
  private isClosed(): boolean {
    return this.state === 'closed';
  }
}

function gone(): AgentError {
  return new AgentError('GUEST_GONE', 'the VM or the service has ended');
}

function aborted(signal: AbortSignal | undefined): AgentError {
  return new AgentError('ABORTED', 'the wait was aborted', { cause: signal?.reason });
}
