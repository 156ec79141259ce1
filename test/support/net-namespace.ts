// A network namespace for a test: taps, bridges and addresses that the host's own network never sees.
//
// It lives as long as a child process that does nothing, and that ends with this process however it ends. Making one needs
// root. Not only for Jest: benchmarks use it, too.

import { execFileSync, spawn, type ChildProcess, type ChildProcessWithoutNullStreams } from 'node:child_process';
import { once } from 'node:events';
import { check, close, libc, O_RDONLY, open } from '../../src/platform/libc.js';
import type { Fd } from '../../src/platform/units.js';

const SYS_SETNS = 308;
const CLONE_NEWNET = 0x4000_0000;

export class NetNamespace implements AsyncDisposable {
  private readonly anchor: ChildProcess;
  private readonly fd: Fd;
  private readonly home: Fd;

  private constructor(anchor: ChildProcess) {
    this.anchor = anchor;
    this.fd = open(`/proc/${anchor.pid ?? 0}/ns/net`, O_RDONLY);
    this.home = open('/proc/thread-self/ns/net', O_RDONLY);
  }

  /** An empty one, with `lo` up and without IPv6, whose own traffic would be in the way. */
  static async create(): Promise<NetNamespace> {
    const withoutIpv6 = 'for i in all default; do echo 1 >/proc/sys/net/ipv6/conf/$i/disable_ipv6; done 2>/dev/null';
    // `read` ends with its standard input, which is this process's.
    const anchor = spawn('unshare', ['-n', 'sh', '-c', `${withoutIpv6}; ip link set lo up; echo ready; read _`], {
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    await Promise.race([
      once(anchor.stdout, 'data'),
      once(anchor, 'exit').then(() => {
        throw new Error('no network namespace could be made');
      }),
    ]);
    return new NetNamespace(anchor);
  }

  /** The id of a process in the namespace, for `nsenter -t`. */
  get pid(): number {
    return this.anchor.pid ?? 0;
  }

  /** Runs a command in it and returns what it printed. */
  run(command: string, ...args: readonly string[]): string {
    return execFileSync('nsenter', [...this.prefix, command, ...args], { encoding: 'utf8' });
  }

  /** `ip`, with its arguments in one string. */
  ip(command: string): string {
    return this.run('ip', ...command.split(' '));
  }

  /** Starts a command in it; the caller ends it. */
  spawn(command: string, ...args: readonly string[]): ChildProcessWithoutNullStreams {
    return spawn('nsenter', [...this.prefix, command, ...args], { stdio: 'pipe' });
  }

  /**
   * Runs `body` with this thread in the namespace: the taps and sockets that it makes belong there, from then on and
   * wherever they are used.
   */
  async enter<T>(body: () => T | Promise<T>): Promise<T> {
    setNamespace(this.fd);
    try {
      return await body();
    } finally {
      setNamespace(this.home);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    close(this.fd);
    close(this.home);
    const exited = once(this.anchor, 'exit');
    this.anchor.stdin?.end();
    await exited;
  }

  private get prefix(): string[] {
    return ['-t', String(this.pid), '-n', '--'];
  }
}

function setNamespace(fd: Fd): void {
  check(libc.syscall(SYS_SETNS, fd, CLONE_NEWNET, 0), 'setns');
}
