// For tests of qcow2 images: QEMU's tools as the measure.

import { execFileSync, spawnSync } from 'node:child_process';
import { readFileSync, rmSync } from 'node:fs';
import { describe, test } from '@jest/globals';

const requireAll = process.env['CI'] === 'true' || process.env['TSVMM_REQUIRE_ALL'] === '1';

/** `describe` for tests that need qemu-img and qemu-io (package qemu-utils). */
export function describeQemu(name: string, body: () => void): void {
  if (spawnSync('qemu-img', ['--version']).status === 0) describe(name, body);
  else if (requireAll) {
    describe(name, () => {
      test('qemu-img is there', () => {
        throw new Error('qemu-img is needed here (package qemu-utils)');
      });
    });
  } else describe.skip(`${name} (skipped: there is no qemu-img; package qemu-utils)`, body);
}

/** Runs qemu-img; an exception has what it said. */
export function qemuImg(...args: string[]): string {
  return execFileSync('qemu-img', args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
}

/** Runs commands of qemu-io on an image. */
export function qemuIo(path: string, ...commands: string[]): void {
  const args = commands.flatMap((command) => ['-c', command]);
  execFileSync('qemu-io', ['-f', 'qcow2', ...args, path], { stdio: ['ignore', 'pipe', 'pipe'] });
}

/** What the guest would read, by QEMU. */
export function contentsByQemu(path: string, name: string, ...args: string[]): Buffer {
  const raw = `${path}.${name}.raw`;
  qemuImg('convert', '-f', 'qcow2', '-O', 'raw', ...args, path, raw);
  try {
    return readFileSync(raw);
  } finally {
    rmSync(raw);
  }
}

interface CheckResult {
  readonly corruptions?: number;
  readonly leaks?: number;
  readonly 'check-errors': number;
}

/** What qemu-img check finds. */
export function checkImage(path: string): { readonly corruptions: number; readonly leaks: number } {
  const { stdout, stderr } = spawnSync('qemu-img', ['check', '--output=json', '-f', 'qcow2', path], {
    encoding: 'utf8',
  });
  if (stdout === '') throw new Error(`qemu-img check ${path}: ${stderr}`);
  const { corruptions = 0, leaks = 0, 'check-errors': errors } = JSON.parse(stdout) as CheckResult;
  return { corruptions: corruptions + errors, leaks };
}
