// The repository that "git clone" gets, and what a fresh clone has without the network.
//
// It is this checkout's own, so the last commit is what is tried; a checkout that came without its history becomes a
// repository of its files. `npm start` in the clone would install the dependencies from a registry: they are this
// checkout's instead, by a hook that git runs at the end of cloning, and setup.mjs finds them as recorded in
// package-lock.json. What this checkout has compiled is there, too, without the stamp by which setup.mjs knows that it is done:
// so compiling is real and takes seconds, until `npm pack` compiles all of it once more.

import { execFileSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import type { Scratch } from './scratch.js';
import { CHECKOUT } from './sessions.js';

const NOT_SOURCES = ['node_modules', 'dist', '.git', 'coverage'];

/**
 * Git runs it in the clone. The packages are links to the files of this checkout, not one link to their folder: whatever npm
 * does to the clone's folder, it does not do it to ours. What setup.mjs writes is copied.
 */
const SEED = `#!/bin/sh
set -e
mkdir node_modules
cp -a --link '${CHECKOUT}'/node_modules/. node_modules/ 2>/dev/null || cp -a '${CHECKOUT}'/node_modules/. node_modules/
cp -a --remove-destination '${CHECKOUT}'/node_modules/.[!.]*.json node_modules/
mkdir dist
cp -R '${CHECKOUT}'/dist/.tsbuildinfo '${CHECKOUT}'/dist/*/ dist/
`;

/** Variables for a session that clones. */
export function checkoutToClone(scratch: Scratch): Record<string, string> {
  const template = scratch.state('template');
  mkdirSync(join(template, 'hooks'), { recursive: true });
  writeFileSync(join(template, 'hooks', 'post-checkout'), SEED, {
    mode: 0o755,
  });
  return {
    CHECKOUT: existsSync(join(CHECKOUT, '.git')) ? CHECKOUT : repositoryOfFiles(scratch.state('repository')),
    GIT_TEMPLATE_DIR: template,
    // The checkout may be another user's.
    GIT_CONFIG_COUNT: '1',
    GIT_CONFIG_KEY_0: 'safe.directory',
    GIT_CONFIG_VALUE_0: '*',
  };
}

function repositoryOfFiles(folder: string): string {
  cpSync(CHECKOUT, folder, { recursive: true, filter: (path) => !NOT_SOURCES.includes(basename(path)) });
  const git = (...args: readonly string[]): void => {
    execFileSync('git', ['-C', folder, '-c', 'user.name=test', '-c', 'user.email=test@localhost', ...args], {
      stdio: 'pipe',
    });
  };
  git('init', '--quiet');
  git('add', '--all');
  git('commit', '--quiet', '--message', 'the files of this checkout');
  return folder;
}
