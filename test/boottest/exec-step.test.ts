// The step that runs a program, with an agent on this machine in the guest's place.

import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { parse } from 'yaml';
import { junitXml } from '../../src/boottest/junit.js';
import type { PlannedTest } from '../../src/boottest/plan.js';
import type { ExecStep } from '../../src/boottest/spec.js';
import { Finding } from '../../src/boottest/result.js';
import { runStep, type Session } from '../../src/boottest/steps.js';
import { TapWriter } from '../../src/boottest/tap.js';
import type { Vm } from '../../src/vmm/vm.js';
import { LocalAgent } from '../support/local-agent.js';
import { parseXml, resultOf } from './support.js';

let local: LocalAgent;
beforeAll(async () => {
  local = await LocalAgent.start();
});
afterAll(async () => {
  await local.stop();
});

async function execute(exec: ExecStep, signal = new AbortController().signal): Promise<void> {
  const exited = new Promise<never>(() => undefined);
  const vm = { agent: local.agent, exited } as unknown as Vm;
  const session: Session = { vm, panicked: exited, position: 0 };
  await runStep({ exec }, session, signal);
}

function sh(script: string): string[] {
  return ['sh', '-c', script];
}

describe('a program in the guest', () => {
  test('passes by its exit code and its output', async () => {
    await execute({ run: ['true'] });
    await execute({ run: sh('exit 7'), exitCode: 7 });
    await execute({ run: ['cat'], stdin: 'hello\n', expect: /^hello$/m });
    await execute({ run: sh('pwd; echo $WORD'), cwd: '/usr', env: { WORD: 'word' }, expect: '/usr\nword\n' });
  });

  test.each<[ExecStep, string, string]>([
    [{ run: sh('echo out; echo err >&2; exit 3') }, 'sh exited with 3 instead of 0', 'out\n\nerr\n'],
    [{ run: sh('kill -9 $$') }, 'sh was ended by SIGKILL instead of 0', ''],
    [{ run: ['echo', 'hello'], expect: 'world' }, 'echo has not printed "world"', 'hello\n'],
    [{ run: ['no-such-program'] }, 'no-such-program', ''],
  ])('%j fails', async (exec, message, detail) => {
    const finding = await execute(exec).catch((error: unknown) => error as Finding);
    expect(finding).toMatchObject({ name: 'Finding', verdict: 'failed', detail });
    expect((finding as Finding).message).toContain(message);
  });

  test('may write any bytes: the reports about it are what their parsers take', async () => {
    const bytes = Array.from({ length: 256 }, (_, byte) => `\\${byte.toString(8).padStart(3, '0')}`).join('');
    const finding = await execute({ run: sh(`printf '${bytes}]]>\\355\\240\\200'; exit 3`) }).catch(
      (error: unknown) => error as Finding,
    );
    const { detail } = finding as Finding;
    expect(detail).toContain('ABC');
    const test = { suite: 's', file: 'f', name: 'n' } as PlannedTest;
    const result = resultOf(test, finding as Finding, detail);
    const [failure, output] = parseXml(junitXml([result], new Date(0))).children[0].children[0].children;
    expect(failure.text).toContain('ABC');
    expect(output.text).toContain(']]>');
    let tap = '';
    new TapWriter(1, (text) => (tap += text)).add(result, 0);
    const block = /\n {2}---\n([^]*?)\n {2}\.\.\./.exec(tap)?.[1] ?? '';
    expect(parse(block)).toMatchObject({ detail });
    expect(tap).not.toMatch(/[\u0000-\u0009\u000b-\u001f\u007f-\u009f]/);
  });

  test('that takes too long is what the step says of it', async () => {
    const controller = new AbortController();
    const waiting = execute({ run: ['sleep', '1000'] }, controller.signal);
    const finding = new Finding('timed-out', 'too long');
    controller.abort(finding);
    await expect(waiting).rejects.toBe(finding);
  });
});
