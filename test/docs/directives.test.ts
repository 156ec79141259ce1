// The comments before blocks of documents, as CONTRIBUTING.md describes them: what they mean, and what is refused.

import { describe, expect, test } from '@jest/globals';
import { matchesOutput, type OutputMode } from '../support/documents/expected-output.js';
import { readDirective } from '../support/documents/directive.js';
import { planText } from '../support/documents/sessions.js';
import { commandsOf, replaced } from '../support/documents/step-text.js';

describe('a directive', () => {
  test('has a group, flags, values and lists', () => {
    const text =
      'test: kvm background until="a \\"b\\" c" exit=3 replace="x y => z" replace="1 => 2" needs="socat curl"';
    expect(readDirective(text)).toEqual({
      kind: 'test',
      group: 'kvm',
      values: { until: 'a "b" c', exit: '3' },
      lists: { replace: ['x y => z', '1 => 2'], with: [], needs: ['socat', 'curl'] },
      flags: new Set(['background']),
    });
  });

  test('is no other comment', () => {
    expect(readDirective('testing: things')).toBeUndefined();
    expect(readDirective('prettier-ignore')).toBeUndefined();
  });

  test.each([
    ['test: all', '"all" is not one of the groups unit, kvm, linux'],
    ['test kvm', '"test" is followed by a colon'],
    ['test: kvm fast', 'there is no option fast'],
    ['test: kvm pty=yes', 'pty takes no value'],
    ['test: kvm until', 'until takes a value'],
    ['test: kvm exit=1 exit=2', 'exit is given twice'],
    ['test: kvm until="a', 'a quote does not end'],
    ['not tested:', 'a reason belongs'],
    ['output: roughly', 'an output is'],
  ])('%s is refused', (text, problem) => {
    expect(() => readDirective(text)).toThrow(problem);
  });
});

describe('the plan of a document', () => {
  test('has sessions in order, steps without a block, outputs and transcripts', () => {
    const text = [
      '<!-- test: kvm session=a -->\n```sh\nfirst\n```',
      'words',
      '<!-- output: part -->\n```\nprinted\n```',
      '<!-- test: unit -->\n```\n$ other\nanswer\n```',
      '<!-- test: kvm session=a run="second" -->',
      '<!-- test: kvm session=a\n     exit=1 -->\n\n  ```sh\n  third\n  ```',
    ].join('\n\n');
    const { sessions, problems } = planText('x.md', text);
    expect(problems).toEqual([]);
    const steps = sessions.map(({ name, steps: all }) => [name, all.map((step) => [step.text, step.output?.text])]);
    expect(steps).toEqual([
      [
        'a',
        [
          ['first\n', 'printed\n'],
          ['second\n', undefined],
          ['third\n', undefined],
        ],
      ],
      ['line 14', [['other\n', 'answer\n']]],
    ]);
  });

  test.each([
    ['```sh\nx\n```', 'x.md:1: this block of sh is not tested'],
    ['```\n$ x\n```', 'x.md:1: this block of a command is not tested'],
    ['<!-- test: kvm -->\n\nwords', 'x.md:1: no code block follows this comment'],
    ['<!-- output -->\n```\nx\n```', 'x.md:2: this output follows no tested block'],
    ['<!-- test: kvm -->\n```ini\nx\n```', 'x.md:2: a block of "ini" cannot be tested but by file='],
    [
      '<!-- test: kvm session=a run=x -->\n<!-- test: unit session=a run=x -->',
      'x.md:2: session a is of group kvm, not unit',
    ],
  ])('%j is a problem', (text, problem) => {
    expect(planText('x.md', text).problems).toEqual([expect.stringContaining(problem)]);
  });

  test('blocks that are not tested are listed with the reason', () => {
    const { untested, problems, sessions } = planText('x.md', '<!-- not tested: why -->\n```sh\nx\n```');
    expect({ untested, problems, sessions }).toEqual({
      untested: [{ block: { line: 2, language: 'sh', text: 'x\n' }, reason: 'why' }],
      problems: [],
      sessions: [],
    });
  });
});

describe('the text of a step', () => {
  const step = (text: string, ...replace: string[]) => ({
    line: 1,
    kind: 'shell' as const,
    language: 'sh',
    text,
    directive: {
      kind: 'test' as const,
      group: 'unit' as const,
      values: {},
      lists: { replace, with: [], needs: [] },
      flags: new Set<never>(),
    },
  });

  test('is what a reader would make of it; a replacement that replaces nothing is a mistake', () => {
    expect(replaced(step('a b a', 'a => c'))).toBe('c b c');
    expect(() => replaced(step('a', 'x => y'))).toThrow('"x" is not in the block');
    expect(() => replaced(step('a', 'a'))).toThrow('write "OLD => NEW"');
  });

  test('has a command on each line that is not continued', () => {
    expect(commandsOf('a \\\n  b\n\n# c\nd # e\n')).toEqual(['a    b', 'd # e']);
  });
});

describe('an output', () => {
  const matches = (text: string, actual: string, how: OutputMode = 'whole', language = ''): boolean =>
    matchesOutput({ text, how, language }, actual);

  test.each([
    ['a\nb\n', 'a\r\nb \r\n', true],
    ['a\n', 'a\nb\n', false],
    ['a … c\n', 'a 123 c\n', true],
    ['a … c\n', 'a\nc\n', false],
    ['a\n...\nz\n', 'a\nb\nc\nz\n', true],
    ['a\n…\n', 'a\n', true],
    ['a\n…\n', 'b\n', false],
    ['1.5 (x)\n', '1.5 (x)\n', true],
    ['1.5 (x)\n', '1x5 (x)\n', false],
  ])('%j of %j: %j', (text, actual, expected) => {
    expect(matches(text, actual)).toBe(expected);
  });

  test('may be a part, have other numbers, or be JSON laid out in another way', () => {
    expect(matches('b\nc\n', 'a\nb\nc\nd\n', 'part')).toBe(true);
    expect(matches('b\nc\n', 'ab\nc\n', 'part')).toBe(false);
    expect(matches('took 5 s\n', 'took 17 s\n')).toBe(false);
    expect(matches('took 5 s\n', 'took 17 s\n', 'numbers')).toBe(true);
    expect(matches('{ "a": [1, 2] }\n', '{"a":[1,2]}\n', 'whole', 'json')).toBe(true);
  });
});
