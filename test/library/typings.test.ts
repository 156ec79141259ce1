// What a TypeScript user gets: the package's declarations check without exceptions, under either way of resolving modules,
// and the examples in docstrings are programs.

import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { Consumer } from '../support/consumer.js';

const ROOT = fileURLToPath(new URL('../../..', import.meta.url));
const SRC = join(ROOT, 'src');

/** What programs in documents take for granted. */
const GLOBALS = `
type Library = typeof import('tsvmm');
type Jest = typeof import('@jest/globals');
declare global {
  const Vm: Library['Vm'];
  const vm: import('tsvmm').Vm;
  const config: import('tsvmm').VmConfig;
  const kernel: string;
  const initramfs: string;
  const test: Jest['test'];
  const expect: Jest['expect'];
  const jest: Jest['jest'];
}
export {};
`;

/** A program that uses a bit of everything, and whose annotations would not hold if anything were `any`. */
const PROGRAM = `
import {
  AgentError, BootError, buildImage, ConfigError, ConsoleError, GUEST_AGENT, ImageError, prometheusText, validateVmConfig, Vm,
  VmError, VsockError,
  type AgentErrorCode, type ConsoleMatch, type GuestProcess, type ImageReport, type RunResult, type VmConfig, type VmExit,
  type VmOptions, type VsockStream,
} from 'tsvmm';
import { bootVm } from 'tsvmm/jest';
import { expect } from '@jest/globals';

type IsAny<T> = 0 extends 1 & T ? true : false;
const no = <T>(_value: T, is: IsAny<T>): void => void is;

const options: VmOptions = { logLevel: 'debug', onEvent: (event) => { if (event.type === 'shutdown') no(event.exit, false); } };

export async function use(): Promise<void> {
  const config: VmConfig = validateVmConfig({});
  await using vm = await Vm.create({ ...config, vsock: { cid: 3 } }, options);
  await vm.start();
  const match: ConsoleMatch = await vm.console.waitFor(/login: /, { timeout: 1000 });
  await vm.console.write('root');
  const stream: VsockStream = await vm.vsock.connect(7, { waitForDriver: true });
  for await (const connection of vm.vsock.listen(5000)) connection.end();
  const process: GuestProcess = await vm.agent.exec(['true'], { stdin: 'pipe' });
  const result: RunResult = await vm.agent.run(['true']);
  vm.events.on('vsock-disconnected', ({ reason, connection }) => { no(reason, false); no(connection.rxBytes, false); });
  const report: ImageReport = await buildImage({ format: 'ext4', output: 'o', sources: [], agent: GUEST_AGENT });
  const text: string = prometheusText(await vm.metrics());
  await vm.snapshot('folder');
  const clone = await Vm.restore('folder', { overrides: { vsock: { socket: 'path' }, disks: [{}] } });
  const exit: VmExit = await clone.exited;
  if (exit.reason === 'crash') no(exit.report, false);
  no(match.end, false); no(stream.guestPort, false); no(process.pid, false); no(result.stdout, false); no(report.notes, false);
  no(text, false); no(vm.vsock.counters().rxBytes, false); no(vm.startTimes.create, false); no(vm.balloon, false);
}

export function codeOf(error: unknown): string | undefined {
  if (error instanceof AgentError) return error.code satisfies AgentErrorCode;
  const known = [BootError, ConfigError, ConsoleError, ImageError, VmError, VsockError];
  return known.some((kind) => error instanceof kind) ? 'known' : undefined;
}

export async function inJest(): Promise<void> {
  const vm = await bootVm({}, { allow: ['WARNING: known'] });
  no(vm, false);
  await expect(vm).toReach('login:', { timeout: 1000 });
}

// @ts-expect-error -- a field that does not exist
void Vm.create({ memory: { bytes: 1 } });
// @ts-expect-error -- a word where one of a few belongs
void Vm.create({ serial: { mode: 'tty' } });
`;

let consumer: Consumer;
beforeAll(() => {
  consumer = new Consumer();
});
afterAll(() => {
  consumer.dispose();
});

test('the declarations hold in a strict project that resolves as Node does, and the examples of docstrings compile', () => {
  const examples = examplesIn(SRC);
  expect(Object.keys(examples).length).toBeGreaterThan(15);
  expect(consumer.check({ 'program.ts': PROGRAM, ...examples }, 'nodenext')).toEqual([]);
}, 60_000);

test('the declarations hold in a strict project that resolves as bundlers do, and the programs in documents compile', () => {
  const programs = programsIn(ROOT);
  expect(Object.keys(programs).length).toBeGreaterThan(5);
  expect(consumer.check({ 'program.ts': PROGRAM, 'taken-for-granted.ts': GLOBALS, ...programs }, 'bundler')).toEqual(
    [],
  );
}, 60_000);

/** The blocks of code behind each @example of a folder's files, under names that say where they are from. */
function examplesIn(folder: string): Record<string, string> {
  const names = readdirSync(folder, { recursive: true, encoding: 'utf8' }).filter((name) => name.endsWith('.ts'));
  return Object.fromEntries(names.flatMap((name) => examplesOf(name)));
}

function examplesOf(name: string): [string, string][] {
  const text = readFileSync(join(SRC, name), 'utf8');
  return [...text.matchAll(/@example\n([ \t]*)\* \`\`\`ts\n([^]*?)\n[ \t]*\* \`\`\`/g)].map(
    ([, , block = ''], index) => [
      `${name.replaceAll('/', '-').replace(/\.ts$/, '')}-${index + 1}.ts`,
      `${block.replaceAll(/^[ \t]*\* ?/gm, '')}\nexport {};\n`,
    ],
  );
}

/** The blocks of TypeScript and JavaScript in README.md and the guides. Those of docs/reference are those of the docstrings. */
function programsIn(root: string): Record<string, string> {
  const guides = readdirSync(join(root, 'docs')).filter((name) => name.endsWith('.md'));
  const documents = ['README.md', ...guides.map((name) => join('docs', name))];
  return Object.fromEntries(
    documents.flatMap((name) => {
      const blocks = [...readFileSync(join(root, name), 'utf8').matchAll(/^```(?:ts|js)\n([^]*?)^```$/gm)];
      return blocks.map(([, block = ''], index): [string, string] => [
        `${name.replaceAll('/', '-')}-${index + 1}.ts`,
        `${block}\nexport {};\n`,
      ]);
    }),
  );
}
