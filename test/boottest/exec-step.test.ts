// The step that runs a program, with an agent on this machine in the guest's place.

import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { ExecStep } from '../../src/boottest/spec.js';
import { Finding } from '../../src/boottest/result.js';
import { runStep, type Session } from '../../src/boottest/steps.js';
import type { Vm } from '../../src/vmm/vm.js';
import { LocalAgent } from '../support/local-agent.js';

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

  test('that takes too long is what the step says of it', async () => {
    const controller = new AbortController();
    const waiting = execute({ run: ['sleep', '1000'] }, controller.signal);
    const finding = new Finding('timed-out', 'too long');
    controller.abort(finding);
    await expect(waiting).rejects.toBe(finding);
  });
});
