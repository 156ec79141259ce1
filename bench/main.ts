// `npm run bench -- NAME [--json FILE]`: runs one benchmark, or all of them in turn.

import { agent } from './agent.js';
import { api } from './api.js';
import { block } from './block.js';
import { exits } from './exits.js';
import { runBench, type Bench } from './harness.js';
import { linux } from './linux.js';
import { many } from './many.js';
import { net } from './net.js';
import { snapshot } from './snapshot.js';
import { start } from './start.js';
import { vsock } from './vsock.js';
import { warm } from './warm.js';

const BENCHES: readonly Bench[] = [agent, api, block, exits, linux, many, net, snapshot, start, vsock, warm];

const USAGE = `usage: npm run bench -- NAME [--json FILE]

${BENCHES.map(({ name, description }) => `  ${name.padEnd(8)} ${description}`).join('\n')}
  ${'all'.padEnd(8)} every one of them (with --json, into FILE.NAME)`;

async function main(args: string[]): Promise<number> {
  const [name, ...rest] = args;
  const json = rest[0] === '--json' ? rest[1] : undefined;
  const chosen = BENCHES.filter((bench) => name === 'all' || bench.name === name);
  if (chosen.length === 0 || rest.length !== (json === undefined ? 0 : 2)) {
    console.error(USAGE);
    return 2;
  }
  for (const bench of chosen) {
    const file = json === undefined ? undefined : chosen.length === 1 ? json : `${json}.${bench.name}`;
    await runBench(bench, file);
  }
  return 0;
}

process.exitCode = await main(process.argv.slice(2));
