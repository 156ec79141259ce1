// What every benchmark shares: figures with their reference and ratio, the table, the JSON file, C references.
//
// These machines are noisy, so a figure by itself means little: each one stands beside a reference that was measured
// in the same run, in alternation with it, and what is quoted is the ratio of the medians.

import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { cpus, release, tmpdir, totalmem } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

export interface Figure {
  readonly name: string;
  readonly value: number;
  readonly unit: string;
  /** The same quantity of the reference, if there is one. */
  readonly reference?: number;
  /** `value` / `reference`. */
  readonly ratio?: number;
}

export interface BenchReport {
  readonly bench: string;
  readonly host: { readonly cpu: string; readonly cores: number; readonly memory: number; readonly kernel: string };
  readonly figures: readonly Figure[];
}

/** A benchmark: measures, and returns its figures. `work` is an empty directory that is removed afterwards. */
export interface Bench {
  readonly name: string;
  readonly description: string;
  run(work: string): Promise<Figure[]>;
}

/** A figure with its reference and their ratio. */
export function compared(name: string, unit: string, value: number, reference: number): Figure {
  return { name, value, unit, reference, ratio: value / reference };
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >>> 1;
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

/** The value below which the fraction `quantile` (0 to 1) of `values` lies. */
export function percentile(values: readonly number[], quantile: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * quantile))];
}

export function sleep(milliseconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}

/** Compiles bench/reference/<name>.c with gcc and returns the program's path inside `work`. */
export function buildReference(work: string, name: string): string {
  const source = fileURLToPath(new URL(`../../bench/reference/${name}.c`, import.meta.url));
  const program = join(work, name);
  execFileSync('gcc', ['-O2', '-Wall', '-Wextra', '-pthread', '-o', program, source], { stdio: 'inherit' });
  return program;
}

/** Runs `bench`, prints its table on stdout and writes the report to `jsonFile` if given. */
export async function runBench(bench: Bench, jsonFile: string | undefined): Promise<void> {
  const work = mkdtempSync(join(tmpdir(), 'tsvmm-bench-'));
  try {
    const figures = await bench.run(work);
    const report: BenchReport = {
      bench: bench.name,
      host: {
        cpu: cpus()[0]?.model ?? 'unknown',
        cores: cpus().length,
        memory: totalmem(),
        kernel: release(),
      },
      figures,
    };
    printTable(report);
    if (jsonFile !== undefined) writeFileSync(jsonFile, `${JSON.stringify(report, undefined, 2)}\n`);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

function printTable({ bench, host, figures }: BenchReport): void {
  const rows = figures.map(({ name, value, unit, reference, ratio }) => [
    name,
    `${format(value)} ${unit}`,
    reference === undefined ? '' : `${format(reference)} ${unit}`,
    ratio === undefined ? '' : ratio < 0.01 ? ratio.toPrecision(1) : ratio.toFixed(2),
  ]);
  const table = [['figure', 'tsvmm', 'reference', 'ratio'], ...rows];
  const widths = [0, 1, 2, 3].map((column) => Math.max(...table.map((row) => row[column].length)));
  console.log(`${bench} on ${host.cpu}, ${host.cores} cores, Linux ${host.kernel}`);
  for (const row of table)
    console.log(
      row
        .map((cell, column) => cell.padEnd(widths[column]))
        .join('  ')
        .trimEnd(),
    );
}

function format(value: number): string {
  if (value === 0 || Math.abs(value) >= 1000) return Math.round(value).toLocaleString('en-US');
  return value.toPrecision(3);
}
