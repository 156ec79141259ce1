// Results as JUnit XML and TAP, and the order of things when many tests run.

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { parse } from 'yaml';
import { junitXml } from '../../src/boottest/junit.js';
import { Finding, type TestResult } from '../../src/boottest/result.js';
import { logPaths, runAll } from '../../src/boottest/run-all.js';
import { TapWriter } from '../../src/boottest/tap.js';
import type { PlannedTest } from '../../src/boottest/plan.js';
import { parseXml, plan, resultOf } from './support.js';

const MATRIX = 'matrix: { cpus: [1, 2, 4] }\nsteps: [{ expect: a }]';

let directory = '';
let tests: PlannedTest[] = [];
beforeAll(async () => {
  directory = mkdtempSync(join(tmpdir(), 'tsvmm-reports-'));
  const one = await plan(directory, MATRIX, 'one.yaml');
  tests = [...one, ...(await plan(directory, 'steps: [{ expect: a }]', 'two.yaml'))];
});
afterAll(() => {
  rmSync(directory, { recursive: true });
});

function results(): TestResult[] {
  return [
    resultOf(tests[0]),
    resultOf(
      tests[1],
      new Finding('crashed', 'BUG: <bad> & "worse"', { detail: 'RIP 0x1\nRSP 0x2' }),
      'login: \u001b[0m\r\n\0',
    ),
    resultOf(tests[2], new Finding('error', 'no memory')),
    resultOf(tests[3], new Finding('cancelled', 'the run was stopped')),
  ];
}

describe('JUnit XML', () => {
  test('has a suite for each spec and the right element for each verdict', () => {
    const root = parseXml(junitXml(results(), new Date('2026-01-02T03:04:05.678Z')));
    expect(root).toMatchObject({
      name: 'testsuites',
      attributes: { tests: '4', failures: '1', errors: '1', skipped: '1', time: '6.000' },
    });
    expect(root.children.map(({ name, attributes: { name: suite, tests: count } }) => [name, suite, count])).toEqual([
      ['testsuite', 'one', '3'],
      ['testsuite', 'two', '1'],
    ]);
    expect(root.children[0].attributes['timestamp']).toBe('2026-01-02T03:04:05');
    const cases = root.children.flatMap(({ children }) => children);
    expect(cases.map(({ attributes }) => attributes)).toEqual([
      { classname: 'one', name: 'boot cpus=1', time: '1.500' },
      { classname: 'one', name: 'boot cpus=2', time: '1.500' },
      { classname: 'one', name: 'boot cpus=4', time: '1.500' },
      { classname: 'two', name: 'boot', time: '1.500' },
    ]);
    expect(cases.map(({ children }) => children.map(({ name }) => name))).toEqual([
      [],
      ['failure', 'system-out'],
      ['error', 'system-out'],
      ['skipped'],
    ]);
    const [failure, output] = cases[1].children;
    expect(failure).toMatchObject({
      attributes: { type: 'crashed', message: 'BUG: <bad> & "worse"' },
      text: 'BUG: <bad> & "worse"\nRIP 0x1\nRSP 0x2',
    });
    expect(output.text).toBe('login: \ufffd[0m\n\ufffd');
  });

  test('is well-formed whatever a guest prints', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), fc.uint8Array(), (message, bytes) => {
        const finding = new Finding('failed', message + '\ud800');
        const root = parseXml(junitXml([resultOf(tests[0], finding, Buffer.from(bytes).toString())], new Date(0)));
        expect(root.children[0].children[0].children).toHaveLength(2);
      }),
    );
  });
});

describe('TAP', () => {
  test('has the points in order, however they come, with YAML that says why', () => {
    let text = '';
    const writer = new TapWriter(4, (piece) => (text += piece));
    for (const index of [3, 1, 0, 2]) writer.add(results()[index], index);
    const lines = text.split('\n').filter((line) => !line.startsWith(' '));
    expect(lines).toEqual([
      'TAP version 14',
      '1..4',
      'ok 1 - one: boot cpus=1',
      'not ok 2 - one: boot cpus=2',
      'not ok 3 - one: boot cpus=4',
      'ok 4 - two: boot # SKIP the run was stopped',
      '',
    ]);
    const block = /not ok 2.*\n {2}---\n([^]*?) {2}\.\.\./.exec(text)?.[1] ?? '';
    expect(parse(block)).toEqual({
      severity: 'fail',
      verdict: 'crashed',
      message: 'BUG: <bad> & "worse"',
      detail: 'RIP 0x1\nRSP 0x2',
      duration_ms: 1500,
    });
  });

  test('a name cannot pass for a directive', () => {
    let text = '';
    new TapWriter(1, (piece) => (text += piece)).add(resultOf({ ...tests[0], name: 'a # TODO \\\nb' }), 0);
    expect(text).toContain('ok 1 - one: a \\# TODO \\\\ b\n');
  });
});

describe('many tests', () => {
  test('run side by side while their vCPUs fit, and one that never fits runs alone', async () => {
    let vcpus = 0;
    let most = 0;
    const order: string[] = [];
    const all = [...tests, ...tests];
    const done = await runAll(all, {
      jobs: 3,
      signal: new AbortController().signal,
      onStart: ({ name }) => order.push(name),
      run: async (one) => {
        const { boot_vcpus: count } = one.config.cpus;
        vcpus += count;
        most = Math.max(most, vcpus);
        expect(vcpus <= 3 || vcpus === count).toBe(true);
        await new Promise(setImmediate);
        vcpus -= count;
        return resultOf(one);
      },
    });
    expect(most).toBe(4);
    expect(order).toEqual(all.map(({ name }) => name));
    expect(done.map(({ test: { name } }) => name)).toEqual(order);
  });

  test('have logs of their own, whatever they are called', () => {
    const paths = logPaths([
      { suite: 'a/../b', name: 'x y' },
      { suite: 'a/../b', name: 'x/y' },
      { suite: '..', name: '../../etc/passwd' },
      { suite: 'é', name: 'n'.repeat(500) },
    ]);
    expect(paths.slice(0, 3)).toEqual(['a_.._b/x_y', 'a_.._b/x_y-2', '_/__.._etc_passwd']);
    for (const path of paths) expect(path).toMatch(/^[\w.=+-]{1,150}\/[\w.=+-]{1,152}$/);
  });
});
