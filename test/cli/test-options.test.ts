// The command line of `tsvmm test`, and what it shows while it runs.

import { describe, expect, test } from '@jest/globals';
import type { PlannedTest } from '../../src/boottest/plan.js';
import { Finding } from '../../src/boottest/result.js';
import { parseCommandLine } from '../../src/cli/options.js';
import { parseTestCommand, testHelp } from '../../src/cli/test-options.js';
import { TestProgress } from '../../src/cli/test-progress.js';

describe('the options of tsvmm test', () => {
  test('are its own', () => {
    expect(parseCommandLine(['test', 'a.yaml', '--tap'])).toEqual({ action: 'test', args: ['a.yaml', '--tap'] });
    expect(parseTestCommand(['a.yaml', '--jobs', '3', 'b.yaml', '--tap', '--junit=j.xml', '--artifacts', 'd'])).toEqual(
      {
        specs: ['a.yaml', 'b.yaml'],
        jobs: 3,
        artifacts: 'd',
        junit: 'j.xml',
        tap: true,
      },
    );
    expect(parseTestCommand(['a.yaml'])).toMatchObject({ tap: false, junit: undefined, artifacts: undefined });
    expect(parseTestCommand(['--nonsense', '--help'])).toBe('help');
    for (const name of ['jobs N', 'artifacts DIR', 'junit FILE', 'tap']) expect(testHelp()).toContain(`--${name}`);
  });

  test.each([
    [[], 'test: no spec is named. Write tsvmm test SPEC...'],
    [['--tpa', 'a'], '--tpa: no such option of tsvmm test. Did you mean --tap?'],
    [['--kernel=x', 'a'], '--kernel: no such option of tsvmm test.'],
    [['a', '--jobs'], '--jobs: no value given'],
    [['a', '--jobs', '0'], '--jobs: "0" is not a number from 1 to 4096'],
    [['a', '--jobs', 'two'], '--jobs: "two" is not a number'],
    [['a', '--junit', 'x', '--junit', 'y'], '--junit: given 2 times'],
    [['a', '--artifacts='], '--artifacts: the value is empty'],
  ])('%j is refused', (args, message) => {
    expect(() => parseTestCommand(args)).toThrow(message);
  });
});

describe('progress', () => {
  const one = { suite: 's', name: 'one' } as PlannedTest;
  const two = { suite: 's', name: 'two' } as PlannedTest;
  const base = { finding: undefined, durationMs: 1500, output: '', logs: [] };

  function shown(isTTY: boolean): string {
    let text = '';
    const progress = new TestProgress({ isTTY, columns: 20, write: (piece) => (text += piece) }, 2);
    progress.started(one);
    progress.started(two);
    progress.finished({ ...base, test: one, verdict: 'passed' });
    const finding = new Finding('failed', 'why');
    progress.finished({
      ...base,
      test: two,
      verdict: 'failed',
      finding,
      output: 'a\r\n\u001b[2Jb\u0007\r\n',
      logs: ['l'],
    });
    progress.summary(3000);
    return text;
  }

  test('is a line for each test where nobody watches, with the end of the console of those that did not pass', () => {
    expect(shown(false)).toBe(
      'ok  s: one (1.5 s)\nFAILED  s: two (1.5 s)\n    why\n    | a\n    | b\n    console log: l\n1 passed, 1 failed of 2 in 3 s\n',
    );
  });

  test('on a terminal says what runs, in one line that is erased', () => {
    expect(shown(true)).toContain(
      '\r\u001b[K[0/2] one, two\r\u001b[Kok  s: one (1.5 s)\n\r\u001b[K[1/2] two\r\u001b[KFAILED',
    );
  });
});
