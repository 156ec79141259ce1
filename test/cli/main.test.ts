// The command as a process: what it prints where, its exit status, and what it does not load.

import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from '@jest/globals';

const MAIN = fileURLToPath(new URL('../../src/cli/main.js', import.meta.url));

async function tsvmm(args: readonly string[]) {
  const child = spawn(process.execPath, [MAIN, ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
  let stdout = '';
  let stderr = '';
  child.stdout.on('data', (chunk: Buffer) => (stdout += chunk.toString()));
  child.stderr.on('data', (chunk: Buffer) => (stderr += chunk.toString()));
  const status = await new Promise<number | null>((resolve) => child.on('close', resolve));
  return { status, stdout, stderr };
}

describe('tsvmm', () => {
  test('--version and --help print on stdout and succeed', async () => {
    expect(await tsvmm(['--version'])).toEqual({ status: 0, stdout: expect.stringMatching(/^tsvmm \d/), stderr: '' });
    const help = await tsvmm(['--help']);
    expect(help).toMatchObject({ status: 0, stderr: '' });
    expect(help.stdout).toContain('Exit status:');
  });

  test('a mistake is one line on stderr and status 2', async () => {
    const result = await tsvmm(['--vsock', 'cid=2,socket=/tmp/s']);
    const stderr = 'tsvmm: --vsock cid: 2 is the host itself (VMADDR_CID_HOST). Use 3 to 4294967294.\n';
    expect(result).toEqual({ status: 2, stdout: '', stderr });
  });

  test('a log file that cannot be written is a mistake as well', async () => {
    expect(await tsvmm(['--log-file', '/nowhere/log'])).toMatchObject({
      status: 2,
      stderr: expect.stringContaining('--log-file: "/nowhere/log" cannot be opened'),
    });
  });

  test('a reader that goes away is no failure', async () => {
    const child = spawn(process.execPath, [MAIN, '--help'], { stdio: ['ignore', 'pipe', 'pipe'] });
    child.stdout.destroy();
    let stderr = '';
    child.stderr.on('data', (chunk: Buffer) => (stderr += chunk.toString()));
    const status = await new Promise((resolve) => child.on('close', resolve));
    expect([status, stderr]).toEqual([0, '']);
  });

  test('the start loads neither yargs, winston nor zod', () => {
    // Each costs 30 to 45 ms, in front of the guest's first instruction.
    const packages = [...packagesLoadedBy(new URL('../../src/cli/main.js', import.meta.url))];
    expect(packages).toContain('yargs-parser');
    expect(packages.filter((name) => !name.startsWith('node:'))).toEqual(['yargs-parser']);
  });

  test('a VM loads what it may not need with its first use: requests of the agent, the vsock device, the files of snapshots', () => {
    const modules = new Set<string>();
    packagesLoadedBy(new URL('../../src/vmm/vm.js', import.meta.url), modules);
    const inFolder = (folder: string): string[] =>
      [...modules].flatMap((module) =>
        module.includes(`/src/${folder}/`) ? [module.split(`/src/${folder}/`)[1]] : [],
      );
    expect(inFolder('agent').sort()).toEqual(['errors.js', 'guest-agent.js', 'ports.js']);
    expect(inFolder('vsock').sort()).toEqual(['counters.js', 'in-process/errors.js']);
    expect(inFolder('vmm/snapshot')).not.toContain('read.js');
    expect(['image', 'api', 'boottest', 'cli', 'devices/block', 'devices/net'].flatMap(inFolder)).toEqual([]);
  });
});

/** The packages that a compiled module imports statically, by itself and through its own modules. */
function packagesLoadedBy(module: URL, seen = new Set<string>()): Set<string> {
  const packages = new Set<string>();
  if (seen.has(module.href)) return packages;
  seen.add(module.href);
  for (const [, specifier] of readFileSync(module, 'utf8').matchAll(
    /^(?:import|export)\s(?:[^'";]*from\s)?'([^']+)'/gm,
  )) {
    if (!specifier.startsWith('.')) packages.add(specifier);
    else for (const name of packagesLoadedBy(new URL(specifier, module), seen)) packages.add(name);
  }
  return packages;
}
