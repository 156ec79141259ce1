// Runs the API server of one VM: the VM of the command line, or none until a client makes one. Loaded with --api-socket.
//
// With a VM on the command line the process ends when that VM does, as without the API; a server that began empty, or with
// --no-shutdown, stays until vmm.shutdown or a signal.

import { fstatSync } from 'node:fs';
import { metricsRoute } from '../api/metrics.js';
import { Monitor, type MonitoredVm } from '../api/monitor.js';
import { ApiServer, type ApiServerOptions } from '../api/server.js';
import { ConfigError } from '../config/config-error.js';
import type { VmConfig } from '../config/vm-config.js';
import { check, libc } from '../platform/libc.js';
import type { SnapshotOverrides } from '../vmm/snapshot/overrides.js';
import { HostSocket } from '../vmm/host-socket.js';
import type { ApiSocket } from './api-socket.js';
import { attend, describeEnd, report, type RunnableVm, type VmEnd } from './attend.js';
import { Ending } from './ending.js';
import type { Host } from './host.js';
import type { LogFunction } from './logging.js';

export interface ServeOptions {
  readonly socket: ApiSocket;
  /** Undefined: the server begins without a VM. */
  readonly config: VmConfig | undefined;
  /** The VM is not new: it was saved there, with another configuration perhaps. */
  readonly restore?: { readonly directory: string; readonly resume: boolean } | undefined;
  readonly createVm: (config: VmConfig) => Promise<RunnableVm & MonitoredVm>;
  readonly restoreVm: (directory: string, overrides: SnapshotOverrides) => Promise<RunnableVm & MonitoredVm>;
  readonly log: LogFunction;
  readonly host: Host;
  /** What a signal gives the guest to shut down. */
  readonly graceMs?: number;
  /** Whether to go on when the VM of the command line has ended, too. */
  readonly noShutdown?: boolean;
}

/** Serves until the end and returns the exit status. Throws what making the VM throws, or its failure. */
export async function serveApi({
  socket,
  config,
  restore,
  createVm,
  restoreVm,
  log,
  host,
  graceMs = 0,
  noShutdown = false,
}: ServeOptions): Promise<number> {
  const ending = new Ending(host, graceMs);
  let lastEnd: VmEnd = { reason: 'stopped' };
  const attended = async (making: Promise<RunnableVm & MonitoredVm>): Promise<MonitoredVm> => {
    const vm = await making;
    void vm.exited.then(attend(vm.config, vm, host, ending));
    return vm;
  };
  const monitor = new Monitor({
    factory: {
      create: (vmConfig) => attended(createVm(vmConfig)),
      restore: (directory, overrides) => attended(restoreVm(directory, overrides)),
    },
    onVmEnd: (end) => {
      if (config === undefined || noShutdown) {
        for (const line of describeEnd(end)) host.say(line);
        return;
      }
      lastEnd = end;
      void monitor.shutdown();
    },
  });
  ending.setVm({ stop: (options) => monitor.shutdown(options) });
  try {
    const listener = openListener(socket);
    try {
      const server = await startServer(socket, listener, {
        monitor,
        extraRoutes: [metricsRoute(monitor)],
        log: (level, message) => {
          log(level, 'api', message);
        },
      });
      try {
        log('info', 'api', `serving at ${'path' in socket ? socket.path : `descriptor ${socket.fd}`}`);
        if (config !== undefined && !ending.requested) {
          if (restore === undefined) await bootFirst(monitor, config);
          else await monitor.restore(restore.directory, { resume: restore.resume, overrides: config });
        }
        await monitor.closed;
      } finally {
        listener.close();
        await server.close();
      }
    } finally {
      listener.close();
    }
  } finally {
    ending.close();
  }
  return report(lastEnd, ending, host);
}

async function startServer(socket: ApiSocket, listener: OwnedListener, options: ApiServerOptions): Promise<ApiServer> {
  try {
    return await ApiServer.start(listener, options);
  } catch (error) {
    throw 'fd' in socket ? noListener(socket.fd, 'is no socket that can listen', error) : error;
  }
}

/** A VM that is ended while it boots is no error. */
async function bootFirst(monitor: Monitor, config: VmConfig): Promise<void> {
  await monitor.create(config);
  try {
    await monitor.boot();
  } catch (error) {
    if (!monitor.isClosing) {
      await monitor.shutdown();
      throw error;
    }
  }
}

interface OwnedListener {
  /** For the server, which closes it. */
  readonly fd: number;
  /** Removes the socket's file, if it is ours; a second call does nothing. */
  close(): void;
}

/** Throws VmError SOCKET_IN_USE or HOST_PATH, or ConfigError. */
function openListener(socket: ApiSocket): OwnedListener {
  if ('fd' in socket) return { fd: checkedSocket(socket.fd), close: () => undefined };
  const hostSocket = new HostSocket('--api-socket', socket.path, { isPrivate: true });
  let open = true;
  const fd = check(libc.fcntl(hostSocket.fd, F_DUPFD_CLOEXEC, 0), 'fcntl F_DUPFD_CLOEXEC');
  return {
    fd,
    close: () => {
      if (open) hostSocket.close();
      open = false;
    },
  };
}

const F_DUPFD_CLOEXEC = 1030;

function checkedSocket(fd: number): number {
  try {
    if (fstatSync(fd).isSocket()) return fd;
  } catch {
    // Not even a descriptor.
  }
  throw noListener(fd, 'is no socket');
}

function noListener(fd: number, what: string, cause?: unknown): ConfigError {
  const option = '--api-socket';
  return new ConfigError(
    { option, key: 'fd', value: fd, label: `${option} fd` },
    { code: 'WRONG_TYPE', problem: `descriptor ${fd} ${what}`, mend: 'Hand over a stream socket that listens.' },
    { cause },
  );
}
