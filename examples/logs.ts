// Guests that are watched over vsock: their log lines are collected, their load is shown to Prometheus, files go in and
// results come out. No network, no shared folder.
//
//   node dist/examples/logs.js --kernel vmlinux --guests 3 --output /tmp/logs
//
// Each guest measures the lines of the files that it is given, and logs what it does. In between it is moved: saved, stopped,
// and restored as another VM. Its connections break then, and no line is lost.

import { createWriteStream } from 'node:fs';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import { basename, join } from 'node:path';
import { finished } from 'node:stream/promises';
import { parseArgs } from 'node:util';
import { PROMETHEUS_CONTENT_TYPE, prometheusText, Vm, type GuestMetrics, type MetricFamily } from '../src/index.js';
import { LINUX_OPTIONS, LINUX_USAGE, savedLinux, temporaryFolder } from './linux-guest.js';
import { LOG_SHIPPER, LogCollector } from './log-collector.js';
import { runProgram, wholeNumber } from './program.js';

const USAGE = `usage: node dist/examples/logs.js [options]

Starts Linux guests that work on files, collects what they log, and moves each of them to another VM in between.
Standard output tells what happens; http://127.0.0.1:PORT/metrics has the guests' load meanwhile.

  --guests N        (2)
  --lines N         of the files that each of them works on (100)
  --output DIR      for log.ndjson and the results (tsvmm-logs)
  --metrics-port N  (one that is free)
${LINUX_USAGE}`;

const READY_LIMIT_MS = 60_000;
const SCRIPT_LIMIT_MS = 600_000;

/** In the guest: a line of the log, as JSON, and one of the result for each line of a file. */
const WORK = `#!/bin/sh
number=$2
while IFS= read -r line; do
  echo "$number \${#line}" >&4
  echo "{\\"number\\":$number,\\"message\\":\\"measured\\",\\"length\\":\${#line}}" >&3
  number=$((number + 1))
done <"$1" 3>>/work/log 4>>/work/result
`;

/** Starts the shipper in the background, where it lives on when nobody from the host is connected. */
const START = `#!/bin/sh
: >>/work/log
sh /work/shipper.sh /work/log </dev/null >/dev/null 2>&1 &
`;

/** One guest, whatever VM it is in at present. */
class Guest {
  readonly name: string;
  private readonly collector: LogCollector;
  private vm: Vm;

  private constructor(name: string, collector: LogCollector, vm: Vm) {
    this.name = name;
    this.collector = collector;
    this.vm = vm;
  }

  /** Goes on where the guest in `snapshot` was. */
  static async restore(name: string, snapshot: string, collector: LogCollector, signal: AbortSignal): Promise<Guest> {
    const vm = await Vm.restore(snapshot);
    const guest = new Guest(name, collector, vm);
    try {
      await guest.run(signal);
      return guest;
    } catch (error) {
      await vm.stop();
      throw error;
    }
  }

  /** Copies a folder of the host to /work and starts the shipper that is in it. */
  async start(folder: string, signal: AbortSignal): Promise<void> {
    await this.vm.agent.copyIn(folder, '/work', { signal });
    await this.runScript(['/work/start.sh'], signal);
  }

  /** Has the guest work on a file of the host, whose lines are numbered from `first` on. */
  async work(file: string, first: number, signal: AbortSignal): Promise<void> {
    const place = `/work/${basename(file)}`;
    await this.vm.agent.copyIn(file, place, { signal });
    await this.runScript(['/work/work.sh', place, String(first)], signal);
  }

  /** Saves the guest into `folder`, stops its VM, and goes on in another. */
  async move(folder: string, signal: AbortSignal): Promise<void> {
    // Paused from here on, so that it does not go two ways.
    await this.vm.pause();
    await this.vm.snapshot(folder);
    await this.vm.stop();
    this.vm = await Vm.restore(folder);
    await this.run(signal);
  }

  async result(path: string, signal: AbortSignal): Promise<void> {
    await this.vm.agent.copyOut('/work/result', path, { signal });
  }

  metrics(signal: AbortSignal): Promise<GuestMetrics> {
    return this.vm.agent.metrics({ signal });
  }

  async stop(): Promise<void> {
    await this.vm.stop();
  }

  private async runScript(script: readonly string[], signal: AbortSignal): Promise<void> {
    const { exitCode, stderr } = await this.vm.agent.run(['sh', ...script], { timeout: SCRIPT_LIMIT_MS, signal });
    if (exitCode !== 0) throw new Error(`${this.name}: ${script.join(' ')} failed: ${stderr.toString()}`);
  }

  private async run(signal: AbortSignal): Promise<void> {
    // Before it goes on: it calls at once.
    this.collector.attach(this.name, this.vm);
    await this.vm.resume();
    await this.vm.agent.waitReady({ timeout: READY_LIMIT_MS, signal });
  }
}

/** What the guests say of their load, in the data model of Prometheus. One that is moved at the moment is left out. */
async function families(
  guests: readonly Guest[],
  collector: LogCollector,
  signal: AbortSignal,
): Promise<MetricFamily[]> {
  const asked = await Promise.allSettled(guests.map((guest) => guest.metrics(signal)));
  const gauge = (name: string, help: string, valueOf: (metrics: GuestMetrics) => number): MetricFamily => ({
    name,
    help,
    type: 'gauge',
    samples: asked.flatMap((answer, index) =>
      answer.status === 'fulfilled' ? [{ labels: { guest: guests[index].name }, value: valueOf(answer.value) }] : [],
    ),
  });
  return [
    gauge('guest_load1', 'Average load over a minute.', ({ load }) => load[0]),
    gauge('guest_memory_free_bytes', 'Memory that nobody uses.', ({ memoryFree }) => memoryFree),
    gauge('guest_uptime_seconds', 'Time since the guest booted.', ({ uptimeSeconds }) => uptimeSeconds),
    {
      name: 'guest_log_lines_total',
      help: 'Log lines that were collected.',
      type: 'counter',
      samples: guests.map(({ name }) => ({ labels: { guest: name }, value: collector.count(name) })),
    },
  ];
}

/** Serves them until the signal. Returns where. */
async function serveMetrics(port: number, text: () => Promise<string>, signal: AbortSignal): Promise<string> {
  const server = createServer((_request, response) => {
    text().then(
      (body) => response.setHeader('content-type', PROMETHEUS_CONTENT_TYPE).end(body),
      () => response.writeHead(503).end(),
    );
  });
  server.listen({ port, host: '127.0.0.1', signal });
  await once(server, 'listening');
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}/metrics`;
}

/** The numbers in a guest's lines say whether one is missing, or there twice. */
function findGap(records: string, guest: string, lines: number): string | undefined {
  let next = 1;
  for (const text of records.trimEnd().split('\n')) {
    const record = JSON.parse(text) as { guest: string; entry?: { number?: number } };
    if (record.guest !== guest || record.entry?.number === undefined) continue;
    if (record.entry.number !== next) return `line ${record.entry.number} comes where ${next} should be`;
    next++;
  }
  return next === lines + 1 ? undefined : `line ${next} is missing`;
}

await runProgram(USAGE, async (signal) => {
  const { values } = parseArgs({
    options: {
      guests: { type: 'string', default: '2' },
      lines: { type: 'string', default: '100' },
      output: { type: 'string', default: 'tsvmm-logs' },
      'metrics-port': { type: 'string', default: '0' },
      ...LINUX_OPTIONS,
    },
  });
  const count = wholeNumber('guests', values.guests, 1, 1000);
  const lines = wholeNumber('lines', values.lines, 1, 1_000_000);
  const port = wholeNumber('metrics-port', values['metrics-port'], 0, 65_535);
  await mkdir(values.output, { recursive: true });
  const logFile = join(values.output, 'log.ndjson');

  await using temporary = await temporaryFolder();
  const inFolder = (name: string): string => join(temporary.folder, name);
  await mkdir(inFolder('work'));
  for (const [name, content] of Object.entries({ 'start.sh': START, 'work.sh': WORK, 'shipper.sh': LOG_SHIPPER })) {
    await writeFile(join(inFolder('work'), name), content);
  }
  // Two files, one for each half of the work.
  const half = Math.ceil(lines / 2);
  const all = Array.from({ length: lines }, (_, index) => `${'*'.repeat(index % 10)}\n`);
  await writeFile(inFolder('first'), all.slice(0, half).join(''));
  await writeFile(inFolder('second'), all.slice(half).join(''));
  await using saved = await savedLinux(values, ['sh', 'socat', 'tail'], signal);

  const output = createWriteStream(logFile);
  const collector = new LogCollector(output);
  const guests: Guest[] = [];
  const over = new AbortController();
  try {
    for (let number = 1; number <= count; number++) {
      guests.push(await Guest.restore(`guest-${number}`, saved.folder, collector, signal));
    }
    const text = async (): Promise<string> => prometheusText(await families(guests, collector, over.signal));
    console.log(`metrics: ${await serveMetrics(port, text, over.signal)}`);
    await Promise.all(
      guests.map(async (guest) => {
        const { name } = guest;
        await guest.start(inFolder('work'), signal);
        await guest.work(inFolder('first'), 1, signal);
        // The connection is there, and some lines are still on their way.
        await collector.waitFor(name, 1, signal);
        await guest.move(inFolder(name), signal);
        console.log(`${name}: moved to another VM when ${collector.count(name)} of its lines had come`);
        // It writes on at once, whether its shipper has found the collector again or not.
        await guest.work(inFolder('second'), half + 1, signal);
        await collector.waitFor(name, lines, signal);
        await guest.result(join(values.output, `${name}.result`), signal);
      }),
    );
  } finally {
    over.abort();
    await Promise.all(guests.map((guest) => guest.stop()));
    output.end();
    await finished(output);
  }

  let status = 0;
  const records = await readFile(logFile, 'utf8');
  for (const { name } of guests) {
    const gap = findGap(records, name, lines);
    if (gap !== undefined) status = 1;
    console.log(`${name}: ${collector.count(name)} lines, ${gap ?? 'none missing, none twice'}`);
  }
  console.log(`written: ${logFile}`);
  return status;
});
