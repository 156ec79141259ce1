// The tests of one group: one for each session of each document.

import { describe, test } from '@jest/globals';
import { describeNetwork } from '../describe-network.js';
import { describeWithTool } from '../tools.js';
import type { GroupName } from './groups.js';
import { runSession, STEP_LIMIT_MS } from './run-session.js';
import { documentPaths, planDocument, type Session } from './sessions.js';

type Describe = (name: string, body: () => void) => void;

/** The Debian package of a tool that has another name. */
const PACKAGES: Readonly<Record<string, string>> = {
  'qemu-img': 'qemu-utils',
  'mkfs.ext4': 'e2fsprogs',
  ld: 'binutils',
};

/** `describeGroup` is describeKvm where VMs are needed. */
export function testDocuments(group: GroupName, describeGroup: Describe): void {
  for (const path of documentPaths()) {
    const sessions = planDocument(path).sessions.filter((session) => session.group === group);
    if (sessions.length === 0) continue;
    describeGroup(`what ${path} shows`, () => {
      for (const session of sessions) {
        describeSession(session)(session.name, () => {
          test('works', () => runSession(session), STEP_LIMIT_MS[group] * (session.steps.length + 1));
        });
      }
    });
  }
}

/** `describe` for a session, which is skipped where its tools are missing, unless nothing may be. */
function describeSession({ steps }: Session): Describe {
  const tools = new Set(steps.flatMap(({ directive }) => directive.lists.needs));
  const needsNetwork = steps.some(({ directive }) => directive.flags.has('network'));
  let around: Describe = needsNetwork ? describeNetwork : describe;
  for (const tool of tools) {
    const inner = around;
    around = (name, body) => {
      describeWithTool(`${name} (${tool})`, tool, PACKAGES[tool] ?? tool, () => {
        inner(name, body);
      });
    };
  }
  return around;
}
