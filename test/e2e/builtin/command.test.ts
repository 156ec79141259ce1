// The command as a user runs it: a process of its own, its terminal, its signals, its exit status, what it leaves behind.

import { createServer } from 'node:net';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { Command, endCommands } from '../../support/command.js';
import { describeKvm } from '../../support/kvm.js';
import { testConfig, withVm } from '../../support/vms.js';
import { connectVsock, readAll } from '../../support/vsock-client.js';

const MAIN = fileURLToPath(new URL('../../../src/cli/main.js', import.meta.url));

/** The guest's prompt, after the whole banner. */
const PROMPT = /tsvmm guest [^]*> $/;

let directory = '';
let socket = '';

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'tsvmm-command-'));
  socket = join(directory, 'ch.vsock');
});
afterEach(async () => {
  await endCommands();
  rmSync(directory, { recursive: true });
});

function tsvmm(...args: string[]): Command {
  return new Command(process.execPath, [MAIN, ...args]);
}

/** With a vsock device at `socket`. */
function tsvmmWithVsock(...args: string[]): Command {
  return tsvmm('--vsock', `cid=3,socket=${socket}`, ...args);
}

async function echo(text: string): Promise<string> {
  const client = await connectVsock(socket, 7);
  client.end(text);
  return (await readAll(client)).toString();
}

describeKvm('tsvmm without options', () => {
  test('prints the banner on stdout and hints on stderr; SIGINT ends it with 130 and leaves nothing', async () => {
    const vm = tsvmm();
    await vm.waitFor('stdout', PROMPT);
    expect(vm.output.stdout).toMatch(/^tsvmm guest \d\S*, 512 MiB\r\n/);
    // Its standard input is no terminal here, so Ctrl-A is not for it.
    expect(vm.output.stderr).toBe(
      'tsvmm: add vsock with: --vsock cid=3,socket=/tmp/ch.vsock\ntsvmm: leave with: Ctrl-C\n',
    );
    vm.kill('SIGINT');
    expect(await vm.status).toBe(130);
    expect(vm.hasGroup()).toBe(false);
  });

  test('poweroff typed on standard input ends it with 0', async () => {
    const vm = tsvmm();
    vm.type('poweroff\n');
    vm.endInput();
    expect(await vm.status).toBe(0);
    expect(vm.output.stdout).toMatch(/> poweroff\r\n$/);
  });

  test('a guest that crashes ends it with 4, and the report is on stderr', async () => {
    const vm = tsvmm();
    vm.type('fault\n');
    expect(await vm.status).toBe(4);
    expect(vm.output.stderr).toMatch(
      /tsvmm: the guest crashed\nvCPU 0: triple fault\nRIP 0x[0-9a-f]+\n +rax +[0-9a-f]{16}/,
    );
    expect(vm.output.stdout).not.toContain('triple fault');
  });
});

describeKvm('tsvmm --vsock', () => {
  test('echoes for a client that says CONNECT 7, and the hint says how; SIGTERM leaves no socket', async () => {
    const vm = tsvmmWithVsock();
    await vm.waitFor('stdout', PROMPT);
    expect(vm.output.stderr).toContain(
      `connect with: printf 'CONNECT 7\\nhello\\n' | socat -t2 - UNIX-CONNECT:${socket}\n`,
    );
    expect(await echo('hello\n')).toBe('hello\n');
    vm.kill('SIGTERM');
    expect(await vm.status).toBe(143);
    expect(readdirSync(directory)).toEqual([]);
    expect(vm.hasGroup()).toBe(false);
  });

  test('the line in the hint works as it stands', async () => {
    const vm = tsvmmWithVsock();
    await vm.waitFor('stdout', PROMPT);
    const line = /connect with: (.*)/.exec(vm.output.stderr)?.[1] ?? '';
    const client = new Command('sh', ['-c', line]);
    expect(await client.status).toBe(0);
    expect(client.output.stdout).toMatch(/^OK \d+\nhello\n$/);
    vm.kill('SIGINT');
    expect(await vm.status).toBe(130);
  });

  test('rule 20: after kill -9 the same command starts again, in place of the stale socket', async () => {
    const first = tsvmmWithVsock();
    await first.waitFor('stdout', PROMPT);
    first.kill('SIGKILL');
    expect(await first.status).toBe('SIGKILL');
    expect(existsSync(socket)).toBe(true);

    const second = tsvmmWithVsock();
    await second.waitFor('stdout', PROMPT);
    expect(await echo('again\n')).toBe('again\n');
    second.kill('SIGINT');
    expect(await second.status).toBe(130);
    expect(readdirSync(directory)).toEqual([]);
  });

  test('rule 20: a socket that a live VM holds is refused, and that VM is not disturbed', async () => {
    const first = tsvmmWithVsock();
    await first.waitFor('stdout', PROMPT);
    const second = tsvmmWithVsock();
    expect(await second.status).toBe(2);
    expect(second.output).toEqual({
      stdout: '',
      stderr: `tsvmm: --vsock: a running process listens at ${socket}; end that process (another VM?) or name another path\n`,
    });
    expect(await echo('still here\n')).toBe('still here\n');
    first.kill('SIGINT');
    expect(await first.status).toBe(130);
  });

  test('rule 20: a socket of another program, and a file that is no socket, are refused and left alone', async () => {
    const server = createServer().listen(socket);
    await once(server, 'listening');
    const held = tsvmmWithVsock();
    expect(await held.status).toBe(2);
    expect(existsSync(socket)).toBe(true);
    server.close();
    await once(server, 'close');

    writeFileSync(socket, 'mine');
    const file = tsvmmWithVsock();
    expect(await file.status).toBe(2);
    expect(file.output.stderr).toContain(`${socket} exists and is not a socket`);
    expect(existsSync(socket)).toBe(true);
  });

  test('a reader of stdout that goes away does not end the VM', async () => {
    const vm = tsvmmWithVsock();
    await vm.waitFor('stdout', PROMPT);
    vm.closeStdout();
    vm.type('help\n');
    await vm.waitFor('stderr', /console output is discarded from here on/);
    expect(await echo('nobody looks\n')).toBe('nobody looks\n');
    vm.kill('SIGINT');
    expect(await vm.status).toBe(130);
  });
});

describe('mistakes end the command with 2 and one line that says what to do', () => {
  const mend = 'Use 3 to 4294967294.';
  test.each<[string[], string]>([
    [['--vsock', 'cid=0,socket=/tmp/s'], `--vsock cid: 0 is reserved (VMADDR_CID_HYPERVISOR). ${mend}`],
    [
      ['--vsock', 'cid=1,socket=/tmp/s'],
      `--vsock cid: 1 is the loopback of whoever uses it (VMADDR_CID_LOCAL). ${mend}`,
    ],
    [['--vsock', 'cid=2,socket=/tmp/s'], `--vsock cid: 2 is the host itself (VMADDR_CID_HOST). ${mend}`],
    [['--kernal', 'vmlinux'], '--kernal: no such option. Did you mean --kernel? tsvmm --help lists what there is.'],
    [['--kernel', '/nowhere/vmlinux'], '--kernel: "/nowhere/vmlinux" does not exist. Check the spelling.'],
  ])('%j', async (args, message) => {
    const command = tsvmm(...args);
    expect(await command.status).toBe(2);
    expect(command.output).toEqual({ stdout: '', stderr: `tsvmm: ${message}\n` });
  });
});

test('rule 20: a socket path that does not fit with the longest suffix is refused, and the longest that fits is not', async () => {
  const longest = join(directory, 'x'.repeat(96 - directory.length - 1));
  const refused = tsvmm('--vsock', `cid=3,socket=${longest}x`);
  expect(await refused.status).toBe(2);
  expect(refused.output.stderr).toMatch(
    /^tsvmm: --vsock socket: the path has 97 bytes[^]*Use a path of at most 96 bytes.\n$/,
  );
  // Far enough for another complaint.
  const accepted = tsvmm('--vsock', `cid=3,socket=${longest}`, '--memory', 'size=1024T');
  expect(await accepted.status).not.toBe(0);
  expect(accepted.output.stderr).not.toContain('the path has');
});

describeKvm('mistakes that are found while the VM is built', () => {
  test('a kernel of another format is named', async () => {
    const kernel = join(directory, 'bzImage');
    writeFileSync(kernel, gzipSync('not a kernel'));
    const command = tsvmmWithVsock('--kernel', kernel);
    expect(await command.status).toBe(2);
    expect(command.output.stderr).toBe(
      `tsvmm: ${kernel}: the kernel is a gzip file, neither an ELF file nor a bzImage; ` +
        'decompress it first: zcat vmlinux.gz > vmlinux; if it is the initramfs, name it as such\n',
    );
    // The socket, which was there already, went with the rest.
    expect(readdirSync(directory)).toEqual(['bzImage']);
  });

  test('more memory than the host has is refused', async () => {
    const command = tsvmm('--memory', 'size=1024T');
    expect(await command.status).toBe(2);
    expect(command.output.stderr).toMatch(
      /^tsvmm: --memory size=\S+ GiB is more than the \S+ GiB this host has; ask for less\n$/,
    );
  });
});

describeKvm('on a terminal', () => {
  /** Runs the command on a pseudo terminal, between two looks at the terminal's modes. */
  function onTerminal(): Command {
    const line = `stty -g; ${process.execPath} ${MAIN}; echo "status $?"; stty -g`;
    return new Command('script', ['--quiet', '--return', '--command', line, '/dev/null']);
  }

  /** The modes before, what came between, the status, and the modes after. */
  function transcript(terminal: Command): { before: string; status: string; after: string } {
    const lines = terminal.output.stdout.split(/\r*\n/);
    const at = lines.findIndex((line) => /status \d+$/.test(line));
    return { before: lines[0], status: lines[at].replace(/^.*status /, ''), after: lines[at + 1] };
  }

  test.each([
    ['Ctrl-C', '\x03', '130'],
    ['Ctrl-A x', '\x01x', '0'],
  ])('%s ends the VM, and the terminal is as it was', async (_keys, typed, expected) => {
    const terminal = onTerminal();
    await terminal.waitFor('stdout', PROMPT);
    expect(terminal.output.stdout).toContain('tsvmm: leave with: Ctrl-C or Ctrl-A x');
    terminal.type(typed);
    expect(await terminal.status).toBe(0);
    const { before, status, after } = transcript(terminal);
    expect(status).toBe(expected);
    expect(before).toMatch(/^[0-9a-f]+(:[0-9a-f]+)+$/);
    expect(after).toBe(before);
  });

  test('Ctrl-A h says which keys there are, and what is typed reaches the guest', async () => {
    const terminal = onTerminal();
    await terminal.waitFor('stdout', PROMPT);
    terminal.type('\x01h');
    await terminal.waitFor('stdout', /tsvmm: Ctrl-C or Ctrl-A x ends the VM/);
    terminal.type('poweroff\r');
    expect(await terminal.status).toBe(0);
    expect(transcript(terminal).status).toBe('0');
  });
});

describeKvm('--restore', () => {
  /** A snapshot of the built-in guest at its prompt, with vsock. */
  async function takeSnapshot(): Promise<string> {
    const folder = join(directory, 'snapshot');
    await withVm(testConfig({ vsock: { cid: 3, socket } }), async (vm, console) => {
      await console.waitFor(PROMPT);
      await vm.snapshot(folder);
    });
    return folder;
  }

  test('two clones of a saved VM go on side by side, each with its own socket', async () => {
    const folder = await takeSnapshot();
    const sockets = [1, 2].map((number) => `${socket}.${number}`);
    const clones = sockets.map((path, index) =>
      tsvmm(
        '--restore',
        index === 0 ? folder : `source_url=file://${folder}`,
        '--vsock',
        `cid=${index + 5},socket=${path}`,
      ),
    );
    for (const clone of clones) await clone.waitFor('stderr', /leave with/);
    for (const path of sockets) {
      const client = await connectVsock(path, 7);
      client.end(path);
      expect((await readAll(client)).toString()).toBe(path);
    }
    for (const clone of clones) clone.kill('SIGTERM');
    expect(await Promise.all(clones.map(({ status }) => status))).toEqual([143, 143]);
  });

  test('another machine is refused, and so is what is not a snapshot', async () => {
    const folder = await takeSnapshot();
    const other = tsvmm('--restore', folder, '--memory', 'size=128M');
    expect(await other.status).toBe(2);
    expect(other.output.stderr).toMatch(/--memory size: the saved VM had 67108864/);
    const none = tsvmm('--restore', directory);
    expect(await none.status).not.toBe(0);
    expect(none.output.stderr).toMatch(/cannot be restored: it has no config\.json/);
  });
});
