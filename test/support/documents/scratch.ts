// The folder of a session: the working folder, the home, what stands in for /tmp, /run and the like, the commands that
// this checkout provides, and the files that the document takes for granted.

import { chmodSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { fixtureNames, makeFixture } from './fixtures.js';
import type { GroupName } from './groups.js';
import { LINUX_MEMORY, LINUX_WORDS } from './linux-words.js';
import { CHECKOUT } from './sessions.js';

/** Folders of the host that documents speak of. What is below them is below the session's folder here. */
const FOREIGN = /(?<=^|[\s'"`=:(,<>@[]|file:\/\/)\/(?:tmp|run|var\/lib|var\/log|path\/to|srv|boot)\/[\w./-]*/gm;

export class Scratch {
  readonly work: string;
  private readonly base: string;
  private readonly group: GroupName;
  private readonly root: string;

  constructor(group: GroupName) {
    this.group = group;
    // Short, for a socket's path has 107 bytes.
    this.base = mkdtempSync(join(tmpdir(), 'tsvmm-doc-'));
    this.root = join(this.base, 'r');
    this.work = join(this.base, 'w');
    for (const name of ['w', 'home', 'bin', 'r/tmp', 'state', 'node_modules/.bin']) {
      mkdirSync(join(this.base, name), { recursive: true });
    }
    this.makeCommands();
  }

  /** The path of a file that is none of the document's. */
  state(name: string): string {
    return `${this.base}/state/${name}`;
  }

  /** `text` with paths of the host replaced by such in this folder, whose parents are made. */
  localize(text: string): string {
    return text.replaceAll(FOREIGN, (path) => {
      if (path.startsWith(this.base)) return path;
      const local = join(this.root, path);
      mkdirSync(path.endsWith('/') ? local : dirname(local), { recursive: true });
      return local;
    });
  }

  /** The contrary, for what was printed. */
  delocalize(text: string): string {
    return text.replaceAll(this.root, '');
  }

  /** Puts a file of the document, its path as the document has it, in its place. */
  write(path: string, content: string): void {
    const local = resolve(this.work, this.localize(path));
    mkdirSync(dirname(local), { recursive: true });
    writeFileSync(local, content);
    if (content.startsWith('#!')) chmodSync(local, 0o755);
  }

  /** Makes the files that `text`, which is localized, names and that `given` has not. */
  provide(text: string, given: ReadonlySet<string>): void {
    for (const [, path = ''] of text.matchAll(FIXTURE_PATH)) {
      const local = resolve(this.work, path);
      if (given.has(path) || !local.startsWith(this.base)) continue;
      mkdirSync(dirname(local), { recursive: true });
      makeFixture(local, this.group);
    }
  }

  /** Of a user who has nothing but this checkout; `more` goes over it. */
  environment(more: Readonly<Record<string, string>>): NodeJS.ProcessEnv {
    const { PATH = '', LANG, TZ } = process.env;
    return {
      ...(LANG !== undefined && { LANG }),
      ...(TZ !== undefined && { TZ }),
      PATH: `${join(this.base, 'bin')}:${PATH}`,
      HOME: join(this.base, 'home'),
      TMPDIR: join(this.root, 'tmp'),
      TERM: 'xterm',
      CHECKOUT,
      npm_config_update_notifier: 'false',
      npm_config_audit: 'false',
      npm_config_fund: 'false',
      npm_config_progress: 'false',
      npm_config_color: 'false',
      ...more,
    };
  }

  remove(): void {
    rmSync(this.base, { recursive: true, force: true });
  }

  /** `tsvmm` and what belongs to it, on PATH and for npx; the package for imports. */
  private makeCommands(): void {
    const node = JSON.stringify(process.execPath);
    const cli = join(CHECKOUT, 'dist', 'src', 'cli');
    const start = this.group === 'linux' ? LINUX_START : '';
    const commands = {
      tsvmm: `${start}exec ${node} ${JSON.stringify(join(cli, 'main.js'))} "$@"`,
      'tsvmm-remote': `exec ${node} ${JSON.stringify(join(cli, 'remote.js'))} "$@"`,
    };
    for (const [name, command] of Object.entries(commands)) {
      const file = join(this.base, 'bin', name);
      writeFileSync(file, `#!/bin/bash\n${command}\n`, { mode: 0o755 });
      symlinkSync(file, join(this.base, 'node_modules', '.bin', name));
    }
    symlinkSync(join(CHECKOUT, 'firmware', 'agent', 'tsvmm-agent'), join(this.base, 'bin', 'tsvmm-agent'));
    symlinkSync(CHECKOUT, join(this.base, 'node_modules', 'tsvmm'));
  }
}

/** A path whose last part is a fixture's name. */
const FIXTURE_PATH = new RegExp(
  `(?<![\\w./-])((?:[\\w.-]*/)*(?:${fixtureNames()
    .map((name) => name.replaceAll('.', '\\.'))
    .join('|')}))(?![\\w/-]|\\.\\w)`,
  'g',
);

/**
 * The kernel of the tests needs more than a user's (linux-words.ts says what), so the command adds it wherever a kernel is
 * named.
 */
const LINUX_START = `arguments=() cmdline='' kernel='' memory='' program=()
while (($#)); do
  case $1 in
    --) program=("$@"); break ;;
    --cmdline) cmdline=$2; shift ;;
    --memory) memory=$2; shift ;;
    --kernel) kernel=$2; arguments+=(--kernel "$2"); shift ;;
    *) arguments+=("$1") ;;
  esac
  shift
done
if [ -n "$kernel$cmdline" ] || [ "\${arguments[0]}\${TSVMM_KERNEL:+ linux}" = 'run linux' ]; then
  arguments+=(--cmdline "\${cmdline:-console=ttyS0 reboot=k panic=-1} ${LINUX_WORDS}")
  arguments+=(--memory "\${memory:-size=${LINUX_MEMORY}M}")
fi
set -- "\${arguments[@]}" "\${program[@]}"
`;
