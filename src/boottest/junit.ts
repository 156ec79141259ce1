// Results as JUnit XML, as Jenkins, GitLab and others read it. Main thread.
//
// A suite is a spec, a case a test on one machine of its matrix. What the guest did wrong is a failure, with the verdict as
// its type; what the monitor or the host did wrong is an error; what was not run is skipped. The end of the console is in
// system-out of every case that did not pass.

import type { TestResult } from './result.js';

/** The text of the file. */
export function junitXml(results: readonly TestResult[], startedAt: Date): string {
  const files = [...new Set(results.map(({ test }) => test.file))];
  const lines = [
    '<?xml version="1.0" encoding="UTF-8"?>',
    `<testsuites${attributes({ name: 'tsvmm', ...countsOf(results) })}>`,
    ...files.flatMap((file) => {
      const suite = results.filter(({ test }) => test.file === file);
      return suiteXml(suite, startedAt);
    }),
    '</testsuites>',
  ];
  return `${lines.join('\n')}\n`;
}

function suiteXml(results: readonly TestResult[], startedAt: Date): string[] {
  const [{ test }] = results;
  const timestamp = startedAt.toISOString().replace(/\.\d+Z$/, '');
  return [
    `  <testsuite${attributes({ name: test.suite, file: test.file, timestamp, ...countsOf(results) })}>`,
    ...results.flatMap(caseXml),
    '  </testsuite>',
  ];
}

function caseXml(result: TestResult): string[] {
  const { test, durationMs, verdict, finding, output, logs } = result;
  const opening = `    <testcase${attributes({ classname: test.suite, name: test.name, time: seconds(durationMs) })}`;
  if (finding === undefined) return [`${opening}/>`];
  const { message, detail } = finding;
  if (verdict === 'cancelled') return [`${opening}>`, `      <skipped${attributes({ message })}/>`, '    </testcase>'];
  const element = verdict === 'error' ? 'error' : 'failure';
  const text = [message, detail, ...logs.map((path) => `console log: ${path}`)].filter((line) => line !== '');
  return [
    `${opening}>`,
    `      <${element}${attributes({ type: verdict, message })}>${escapeXml(text.join('\n'))}</${element}>`,
    `      <system-out>${escapeXml(output)}</system-out>`,
    '    </testcase>',
  ];
}

function countsOf(results: readonly TestResult[]): Record<string, string> {
  const count = (...verdicts: readonly TestResult['verdict'][]): string =>
    String(results.filter(({ verdict }) => verdicts.includes(verdict)).length);
  return {
    tests: String(results.length),
    failures: count('failed', 'crashed', 'timed-out'),
    errors: count('error'),
    skipped: count('cancelled'),
    time: seconds(results.reduce((sum, { durationMs }) => sum + durationMs, 0)),
  };
}

function seconds(milliseconds: number): string {
  return (milliseconds / 1000).toFixed(3);
}

function attributes(values: Readonly<Record<string, string>>): string {
  return Object.entries(values)
    .map(([name, value]) => ` ${name}="${escapeXml(value).replaceAll('\n', '&#10;').replaceAll('\t', '&#9;')}"`)
    .join('');
}

const ENTITIES: Readonly<Record<string, string>> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' };

/** Text of a guest may hold anything; XML 1.0 has no way to say most control characters. */
function escapeXml(text: string): string {
  return text
    .replaceAll(/\r+\n/g, '\n')
    .replaceAll(/\p{Surrogate}/gu, '\ufffd')
    .replaceAll(/[\u0000-\u0008\u000b-\u001f\ufffe\uffff]/g, '\ufffd')
    .replaceAll(/[&<>"]/g, (character) => ENTITIES[character]);
}
