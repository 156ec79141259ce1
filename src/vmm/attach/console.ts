// The virtio console on the main thread: its rings, its end on the host, and the size of the terminal it may be on.

import { CONSOLE_COUNTERS, consoleIdentity, createConsoleShared } from '../../devices/console/settings.js';
import type { ConsoleSettings } from '../../devices/console/settings.js';
import { ConsoleHost } from '../../devices/console/host.js';
import type { ConsoleConfig } from '../../config/vm-config.js';
import { createEventFd, signalEventFd } from '../../platform/eventfd.js';
import { close } from '../../platform/libc.js';
import { terminalSize } from '../../platform/terminal.js';
import type { Fd } from '../../platform/units.js';
import { GuestConsole } from '../consoles/guest-console.js';
import { openHostEnd } from '../consoles/open-end.js';
import type { AttachContext, AttachedDevice } from './attached-device.js';

const STDOUT = 1 as Fd;

export interface AttachedConsole {
  readonly device: AttachedDevice<ConsoleSettings>;
  readonly console: GuestConsole;
}

/** Opens the console's end on the host. Throws VmError SOCKET_IN_USE or HOST_PATH. */
export function attachConsole(config: ConsoleConfig, { resources, log }: AttachContext): AttachedConsole {
  const shared = createConsoleShared();
  const deviceEvent = resources.own(createEventFd(), close);
  const hostEvent = resources.own(createEventFd(), close);
  const host = new ConsoleHost(shared, () => {
    signalEventFd(deviceEvent);
  });
  const size = config.mode === 'Tty' ? terminalSize(STDOUT) : undefined;
  if (size !== undefined) {
    host.resize(size);
    resources.own(onTerminalResize(host), (end) => {
      end();
    });
  }
  const warn = (message: string): void => {
    log('warn', message);
  };
  const console = resources.own(
    new GuestConsole(host, hostEvent, (input) => openHostEnd('--console', config, input, warn), warn),
    (guestConsole) => {
      guestConsole.close();
    },
  );
  const settings: ConsoleSettings = { kind: 'console', shared, deviceEvent, hostEvent };
  return {
    device: { id: '_console', identity: consoleIdentity(size), settings, counterNames: CONSOLE_COUNTERS },
    console,
  };
}

function onTerminalResize(host: ConsoleHost): () => void {
  const listener = (): void => {
    const size = terminalSize(STDOUT);
    if (size !== undefined) host.resize(size);
  };
  process.on('SIGWINCH', listener);
  return () => process.off('SIGWINCH', listener);
}
