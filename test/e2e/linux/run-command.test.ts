// `tsvmm run` with Linux guests: a root that it makes itself, a disk that knows nothing of the agent, a snapshot; and
// `tsvmm exec`, `tsvmm cp` and a published port of a guest that runs.

import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { constants, copyFileSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { buffer } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { GUEST_AGENT } from '../../../src/agent/binary.js';
import { agentAt } from '../../../src/agent/unix-transport.js';
import { describeKvm } from '../../support/kvm.js';
import {
  ACPI_CMDLINE,
  BOOT_LIMIT_MS,
  COMMAND_LIMIT_MS,
  LINUX_CMDLINE,
  testArtefact,
} from '../../support/linux-guest.js';
import { restoreLinux } from '../../support/linux-snapshot.js';
import { connectVsock } from '../../support/vsock-client.js';

const MAIN = fileURLToPath(new URL('../../../src/cli/main.js', import.meta.url));
/** What dynamic programs are to leave alone on hosts that emulate kernel mode. */
const TUNABLES = 'GLIBC_TUNABLES=glibc.cpu.hwcaps=-AVX,-AVX2,-AVX512F,-AVX512VL,-AVX512BW';
const BOOT = ['--memory', 'size=64M', '--boot-timeout', String(BOOT_LIMIT_MS / 1000), '--env', TUNABLES];

describeKvm('tsvmm run with a Linux guest', () => {
  let directory = '';
  let commands: ChildProcess[] = [];

  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), 'tsvmm-run-test-'));
  });
  afterEach(() => {
    for (const command of commands) command.kill('SIGKILL');
    commands = [];
    rmSync(directory, { recursive: true });
  });

  /** Starts the command; its temporary files go to a folder of their own. */
  function start(...args: readonly string[]) {
    const env = { ...process.env, TMPDIR: directory, TSVMM_KERNEL: testArtefact('kernel') };
    const command = spawn(process.execPath, [MAIN, ...args], { env });
    commands.push(command);
    const ended = once(command, 'close');
    return { command, ended, stdout: buffer(command.stdout), stderr: buffer(command.stderr) };
  }

  async function tsvmm(args: readonly string[], input = '') {
    const { command, ended, stdout, stderr } = start(...args);
    command.stdin.end(input);
    const [status] = (await ended) as [number | null];
    return { status, stdout: (await stdout).toString(), stderr: (await stderr).toString() };
  }

  function leftovers(): string[] {
    return readdirSync(directory).filter((name) => name.startsWith('tsvmm-'));
  }

  test(
    'makes a root of programs of this host; another command, a copy and a port reach the guest meanwhile',
    async () => {
      const socket = join(directory, 'ch.vsock');
      const modules = 'while read -r name rest; do echo "$name"; done < /proc/modules';
      const script = `read line; echo "<$line>"; ${modules}; socat -d -d TCP-LISTEN:80,bind=127.0.0.1 PIPE; cat /tmp/in; exit 7`;
      const vm = ['--cmdline', LINUX_CMDLINE, ...BOOT, '--vsock', `cid=3,socket=${socket}`];
      const env = { ...process.env, TMPDIR: directory, TSVMM_KERNEL: testArtefact('kernel') };
      const roots = [
        '--program',
        'socat',
        '--program',
        'cat',
        '--modules',
        testArtefact('modules'),
        '--module',
        'garp',
      ];
      const command = spawn(process.execPath, [MAIN, 'run', ...vm, ...roots, '--', 'sh', '-c', script], { env });
      commands.push(command);
      const ended = once(command, 'close');
      const output = buffer(command.stdout);
      command.stdin.end('typed\n');
      let errors = '';
      for await (const piece of command.stderr.iterator({ destroyOnReturn: false })) {
        errors += String(piece);
        if (errors.includes('listening on')) break;
      }
      command.stderr.resume();
      expect(errors).toContain('listening on');
      expect(leftovers()).toEqual([]);

      writeFileSync(join(directory, 'file'), 'copied in\n');
      const copied = await tsvmm(['cp', '--vsock', socket, join(directory, 'file'), 'guest:/tmp/in']);
      expect(copied).toEqual({ status: 0, stdout: '', stderr: '' });
      const asked = ['exec', '--vsock', socket, '--env', TUNABLES, '--env', 'A=b', '--cwd', '/tmp', '--user', '1000'];
      const answer = await tsvmm([...asked, '--', 'sh', '-c', 'read x; echo "$x $A $PWD" >&2; exit 9'], 'in\n');
      expect(answer).toEqual({ status: 9, stdout: '', stderr: 'in b /tmp\n' });

      const published = await agentAt(socket).publish({ hostPort: 0, guestPort: 80 });
      const client = connect({ port: published.hostPort, host: '127.0.0.1', allowHalfOpen: true });
      client.end('through the guest');
      expect((await buffer(client)).toString()).toBe('through the guest');
      await published.close();
      expect(await ended).toEqual([7, null]);
      // The newest first; each was loaded behind what it needs, or it would not be there.
      const loaded = ['garp', 'stp', 'llc', 'overlay', 'exportfs'].join('\n');
      expect((await output).toString()).toBe(`<typed>\n${loaded}\ncopied in\n`);
    },
    BOOT_LIMIT_MS + 3 * COMMAND_LIMIT_MS,
  );

  test(
    'runs a disk that has no agent, and leaves it written; copies go both ways',
    async () => {
      const disk = join(directory, 'root.ext4');
      copyFileSync(testArtefact('disk'), disk, constants.COPYFILE_FICLONE);
      writeFileSync(join(directory, 'in'), 'from the host\n');
      const copies = ['--copy-in', `${directory}/in:/in`, '--copy-out', `/kept:${directory}/out`];
      const script = 'read x < /in; echo "$x, through the disk" > /kept; exit 3';
      const vm = ['--cmdline', ACPI_CMDLINE, ...BOOT, '--disk', `path=${disk},image_type=raw`];
      const { status, stderr } = await tsvmm(['run', ...vm, ...copies, '--', '/bin/sh', '-c', script]);
      expect({ status, stderr }).toEqual({ status: 3, stderr: '' });
      expect(readFileSync(join(directory, 'out'), 'utf8')).toBe('from the host, through the disk\n');
      // The plug was pulled when the disk had all: its journal knows of the file.
      const kept = execFileSync('debugfs', ['-R', 'cat /kept', disk], { stdio: ['ignore', 'pipe', 'ignore'] });
      expect([kept.toString(), leftovers()]).toEqual(['from the host, through the disk\n', []]);
    },
    BOOT_LIMIT_MS + COMMAND_LIMIT_MS,
  );

  test(
    'runs in a restored snapshot, beside the VM that was saved, with its agent',
    async () => {
      const socket = join(directory, 'saved.vsock');
      const folder = join(directory, 'saved');
      const guest = await restoreLinux(socket);
      try {
        const from = guest.console.text.length;
        await guest.startUntil('socat -d -d -u VSOCK-LISTEN:99 CREATE:/agent,perm=0755', /listening on/);
        const stream = await connectVsock(socket, 99);
        stream.end(readFileSync(GUEST_AGENT));
        await guest.finish(from);
        await guest.run('/agent --daemon');
        await guest.vm.agent.waitReady({ timeout: COMMAND_LIMIT_MS });
        await guest.vm.snapshot(folder);
        const run = ['run', '--restore', folder, '--', '/bin/sh', '-c', 'read x; echo "<$x>"; exit 5'];
        expect(await tsvmm(run, 'typed\n')).toEqual({ status: 5, stdout: '<typed>\n', stderr: '' });
        expect(leftovers()).toEqual([]);
      } finally {
        await guest.vm.stop();
      }
    },
    BOOT_LIMIT_MS + 3 * COMMAND_LIMIT_MS,
  );
});
