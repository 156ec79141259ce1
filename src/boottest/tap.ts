// Results in the Test Anything Protocol, version 14, point by point. Main thread.

import type { TestResult } from './result.js';

/** Prints points in the order of the tests, each as soon as those before it are there. */
export class TapWriter {
  private readonly write: (text: string) => void;
  private readonly waiting = new Map<number, TestResult>();
  private next = 0;

  constructor(count: number, write: (text: string) => void) {
    this.write = write;
    write(`TAP version 14\n1..${count}\n`);
  }

  add(result: TestResult, index: number): void {
    this.waiting.set(index, result);
    for (;;) {
      const first = this.waiting.get(this.next);
      if (first === undefined) return;
      this.waiting.delete(this.next);
      this.next++;
      this.write(point(first, this.next));
    }
  }

  bailOut(reason: string): void {
    this.write(`Bail out! ${reason}\n`);
  }
}

function point({ test, verdict, finding, durationMs, logs }: TestResult, number: number): string {
  const name = `${test.suite}: ${test.name}`.replaceAll(/[\\#]/g, '\\$&').replaceAll(/\s+/g, ' ');
  if (finding === undefined) return `ok ${number} - ${name}\n  ---\n  duration_ms: ${durationMs}\n  ...\n`;
  if (verdict === 'cancelled') return `ok ${number} - ${name} # SKIP the run was stopped\n`;
  const fields = [
    `severity: ${verdict === 'error' ? 'error' : 'fail'}`,
    `verdict: ${verdict}`,
    `message: ${yamlText(finding.message)}`,
    ...(finding.detail === '' ? [] : [`detail: ${yamlText(finding.detail)}`]),
    ...(logs.length === 0 ? [] : ['logs:', ...logs.map((path) => `  - ${yamlText(path)}`)]),
    `duration_ms: ${durationMs}`,
  ];
  return `not ok ${number} - ${name}\n  ---\n${fields.map((field) => `  ${field}\n`).join('')}  ...\n`;
}

/** JSON's strings are YAML's, but for control characters beyond ASCII, which a terminal obeys, too. */
function yamlText(text: string): string {
  return JSON.stringify(text).replaceAll(
    /[\u007f-\u009f\u2028\u2029\ufeff]/g,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
}
