// Requests a client makes of the HTTP API over its Unix socket, against a server of node:http alone that answers the same
// bytes: both are processes of their own, and the client is this one.

import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { Agent, request } from 'node:http';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { existsSync } from 'node:fs';
import { compared, median, percentile, sleep, type Bench, type Figure } from './harness.js';

const ROUNDS = 7;
const REQUESTS = 400;
/** As many at once, where throughput is measured. */
const AT_ONCE = 16;
const PROGRAM = fileURLToPath(new URL('../src/cli/main.js', import.meta.url));
const PATHS = { ping: '/api/v1/vmm.ping', info: '/api/v1/vm.info' } as const;

/** A server that gives one answer to everything: the answer's length and its bytes come by its arguments. */
const BARE_SERVER = `
  const { createServer } = require('node:http');
  const [path, ...answers] = process.argv.slice(1);
  const bodies = new Map(answers.map((answer) => JSON.parse(answer)));
  createServer((request, response) => {
    const body = bodies.get(request.url);
    response.writeHead(200, { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) });
    response.end(body);
  }).listen(path);
`;

class Client {
  private readonly socketPath: string;
  private readonly agent = new Agent({ keepAlive: true, maxSockets: AT_ONCE });

  constructor(socketPath: string) {
    this.socketPath = socketPath;
  }

  get(path: string): Promise<string> {
    return new Promise((resolve, reject) => {
      const outgoing = request({ socketPath: this.socketPath, path, agent: this.agent }, (incoming) => {
        let text = '';
        incoming.setEncoding('utf8');
        incoming.on('data', (piece: string) => {
          text += piece;
        });
        incoming.on('end', () => {
          if (incoming.statusCode === 200) resolve(text);
          else reject(new Error(`${path}: status ${incoming.statusCode ?? 0}: ${text}`));
        });
        incoming.on('error', reject);
      });
      outgoing.on('error', reject);
      outgoing.end();
    });
  }

  close(): void {
    this.agent.destroy();
  }
}

async function listening(child: ChildProcess, socketPath: string): Promise<void> {
  while (!existsSync(socketPath)) {
    if (child.exitCode !== null) throw new Error(`a server ended with ${child.exitCode} before it listened`);
    await sleep(5);
  }
}

/** Microseconds of each of a number of requests, one after the other. */
async function latencies(client: Client, path: string): Promise<number[]> {
  const taken: number[] = [];
  for (let count = 0; count < REQUESTS; count++) {
    const begin = performance.now();
    await client.get(path);
    taken.push((performance.now() - begin) * 1000);
  }
  return taken;
}

/** Requests a second, several at once. */
async function throughput(client: Client, path: string): Promise<number> {
  let left = REQUESTS * 4;
  const begin = performance.now();
  const one = async (): Promise<void> => {
    while (left-- > 0) await client.get(path);
  };
  await Promise.all(Array.from({ length: AT_ONCE }, one));
  return (REQUESTS * 4 * 1000) / (performance.now() - begin);
}

interface Round {
  readonly median: number;
  readonly p99: number;
  readonly throughput: number;
}

async function measure(client: Client, path: string): Promise<Round> {
  const taken = await latencies(client, path);
  return { median: median(taken), p99: percentile(taken, 0.99), throughput: await throughput(client, path) };
}

async function end(child: ChildProcess): Promise<void> {
  const ended = once(child, 'exit');
  if (child.exitCode === null && child.signalCode === null) {
    child.kill('SIGTERM');
    await ended;
  }
}

export const api: Bench = {
  name: 'api',
  description: 'requests of the HTTP API over its Unix socket, against a bare server of node:http',
  async run(work) {
    const ours = join(work, 'api.sock');
    const bare = join(work, 'bare.sock');
    const monitor = spawn(process.execPath, [PROGRAM, '--api-socket', `path=${ours}`, '--serial', 'null'], {
      stdio: 'ignore',
    });
    const children: ChildProcess[] = [monitor];
    const clients: Client[] = [];
    try {
      await listening(monitor, ours);
      const client = new Client(ours);
      clients.push(client);
      const answers = await Promise.all(Object.values(PATHS).map(async (path) => [path, await client.get(path)]));
      const args = answers.map((answer) => JSON.stringify(answer));
      const server = spawn(process.execPath, ['-e', BARE_SERVER, bare, ...args], { stdio: 'inherit' });
      children.push(server);
      await listening(server, bare);
      const reference = new Client(bare);
      clients.push(reference);
      const figures: Figure[] = [];
      for (const [name, path] of Object.entries(PATHS)) {
        const rounds: { ours: Round; bare: Round }[] = [];
        for (let round = 0; round < ROUNDS; round++) {
          rounds.push({ ours: await measure(client, path), bare: await measure(reference, path) });
        }
        const figure = (what: string, unit: string, key: keyof Round): Figure =>
          compared(
            what,
            unit,
            median(rounds.map((round) => round.ours[key])),
            median(rounds.map((round) => round.bare[key])),
          );
        figures.push(
          figure(`GET ${name}, median`, 'us', 'median'),
          figure('  p99', 'us', 'p99'),
          figure(`  ${AT_ONCE} at once`, 'requests/s', 'throughput'),
        );
      }
      return figures;
    } finally {
      for (const client of clients) client.close();
      await Promise.all(children.map(end));
    }
  },
};
