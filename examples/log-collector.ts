// Takes the log lines of guests over vsock, and loses none that a guest has in its log file, however often the connection
// breaks: the guest calls, the collector answers with the number of the first line that it does not have, and the guest
// sends its file from there on. So nothing has to be acknowledged, and a guest that was restored just calls again.
//
// Copy this file into a program of your own, where the import is from 'tsvmm'. LOG_SHIPPER is the guest's half.
//
// Left out: the position is in memory, so a collector that is started anew takes a guest's file from the beginning; and
// the guest's file only grows.

import { once } from 'node:events';
import type { Writable } from 'node:stream';
import type { Vm, VsockStream } from '../src/index.js';

export const LOG_PORT = 5140;

/** What the guest runs beside its programs, with the log file as its argument. It takes sh, tail and socat. */
export const LOG_SHIPPER = `#!/bin/sh
if [ "$2" = send ]; then
  read -r next
  exec tail -n +"$next" -f "$1"
fi
while :; do
  socat VSOCK-CONNECT:2:${LOG_PORT},forever,interval=1 EXEC:"sh $0 $1 send",pipes
done
`;

/** A guest may send a line that never ends. */
const MAX_LINE_BYTES = 64 * 1024;

interface Source {
  /** Lines taken so far. */
  lines: number;
  stream: VsockStream | undefined;
  /** Settles when the connections so far are done with. */
  done: Promise<void>;
}

interface Line {
  readonly text: string;
  /** Only its beginning is here. */
  readonly cut: boolean;
}

/** Writes what guests log to `output`, a JSON object a line. */
export class LogCollector {
  private readonly output: Writable;
  private readonly sources = new Map<string, Source>();
  /** Called when something has changed. */
  private readonly watchers = new Set<() => void>();
  private failure: Error | undefined;

  constructor(output: Writable) {
    this.output = output;
    output.on('error', (error: Error) => {
      this.failure = error;
      this.tell();
    });
  }

  /** Serves the guest in `vm` under a name: the same one for a guest that was restored and goes on with its log. */
  attach(guest: string, vm: Vm): void {
    const source = this.sources.get(guest) ?? { lines: 0, stream: undefined, done: Promise.resolve() };
    this.sources.set(guest, source);
    vm.vsock.listen(LOG_PORT, (stream) => {
      // The loop that reads hears of errors; without a listener they would end the process.
      stream.on('error', () => undefined);
      // Who calls again has lost the connection before. One after the other, or lines would be taken twice.
      source.stream?.destroy();
      source.stream = stream;
      source.done = source.done.then(() => this.receive(guest, source, stream)).catch(() => undefined);
    });
  }

  /** How many lines of a guest were taken. */
  count(guest: string): number {
    return this.sources.get(guest)?.lines ?? 0;
  }

  /** Settles when that many lines of a guest were taken. Rejects with the signal's reason, or when they cannot be written. */
  async waitFor(guest: string, lines: number, signal: AbortSignal): Promise<void> {
    const tell = (): void => this.tell();
    signal.addEventListener('abort', tell);
    try {
      while (this.count(guest) < lines) {
        signal.throwIfAborted();
        if (this.failure !== undefined) throw this.failure;
        await new Promise<void>((resolve) => this.watchers.add(resolve));
      }
    } finally {
      signal.removeEventListener('abort', tell);
    }
  }

  private async receive(guest: string, source: Source, stream: VsockStream): Promise<void> {
    stream.write(`${source.lines + 1}\n`);
    for await (const line of linesOf(stream)) {
      source.lines++;
      const record = { guest, line: source.lines, received: new Date().toISOString(), ...contentOf(line) };
      const hasRoom = this.output.write(`${JSON.stringify(record)}\n`);
      this.tell();
      // The guest waits, too, until there is room again.
      if (!hasRoom) await once(this.output, 'drain');
    }
  }

  private tell(): void {
    const watchers = [...this.watchers];
    this.watchers.clear();
    for (const watcher of watchers) watcher();
  }
}

/** Whole lines. What comes last without its end is not one: the guest sends it again. */
async function* linesOf(stream: AsyncIterable<unknown>): AsyncGenerator<Line> {
  let begun = Buffer.alloc(0);
  let cut = false;
  const add = (bytes: Buffer): void => {
    const room = MAX_LINE_BYTES - begun.length;
    cut ||= bytes.length > room;
    begun = Buffer.concat([begun, bytes.subarray(0, room)]);
  };
  for await (const piece of stream as AsyncIterable<Buffer>) {
    let from = 0;
    for (let end = piece.indexOf('\n'); end >= 0; end = piece.indexOf('\n', from)) {
      add(piece.subarray(from, end));
      yield { text: begun.toString(), cut };
      begun = Buffer.alloc(0);
      cut = false;
      from = end + 1;
    }
    add(piece.subarray(from));
  }
}

/** A JSON object as what it says, anything else as text. */
function contentOf({ text, cut }: Line): Record<string, unknown> {
  if (cut) return { text, cut };
  try {
    const entry: unknown = JSON.parse(text);
    if (typeof entry === 'object' && entry !== null) return { entry };
  } catch {
    // It is text.
  }
  return { text };
}
