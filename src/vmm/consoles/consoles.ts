// All consoles of a VM: the serial port, the virtio console, the debug console. They outlive a reboot of the guest. Main
// thread.

import type { VmConfig } from '../../config/vm-config.js';
import type { ConsoleSettings } from '../../devices/console/settings.js';
import { createDebugConsoleShared, DEBUG_CONSOLE_PORT, DebugConsoleHost } from '../../devices/legacy/debug-console.js';
import { SerialHost } from '../../devices/legacy/serial-host.js';
import { createSerialShared, resetSerialRegisters } from '../../devices/legacy/serial-shared.js';
import { createEventFd, signalEventFd } from '../../platform/eventfd.js';
import { close } from '../../platform/libc.js';
import type { Fd } from '../../platform/units.js';
import type { AttachedDevice } from '../attach/attached-device.js';
import { attachConsole } from '../attach/console.js';
import type { ReleaseStack } from '../release-stack.js';
import type { DebugConsoleHandles, LogLevel, SerialHandles } from '../worker-protocol.js';
import { ConsoleError } from './console-error.js';
import { ConsoleReader } from './console-reader.js';
import { GuestConsole, type ConsolePort, type VmConsole } from './guest-console.js';
import { openHostEnd } from './open-end.js';

export interface ConsolesContext {
  /** Owns everything that is opened. */
  readonly resources: ReleaseStack;
  readonly log: (level: LogLevel, component: string, message: string) => void;
}

/** A console that is not there: it takes everything and says nothing. */
const NO_CONSOLE: VmConsole = {
  path: undefined,
  printed: 0,
  write: () => Promise.resolve(),
  onOutput: () => () => undefined,
  tail: () => '',
  waitFor: (pattern) => Promise.reject(new ConsoleError('NO_CONSOLE', 'the VM has no console', { pattern })),
  stream: () => {
    const reader = new ConsoleReader();
    reader.end();
    return reader.stream(() => Promise.resolve());
  },
};

export class Consoles {
  readonly serial: GuestConsole | undefined;
  readonly virtio: GuestConsole | undefined;
  readonly debug: GuestConsole | undefined;
  /** For the vCPU threads. */
  readonly serialHandles: SerialHandles | undefined;
  readonly debugHandles: DebugConsoleHandles | undefined;
  /** The virtio console as a device of the machine. */
  readonly device: AttachedDevice<ConsoleSettings> | undefined;
  private readonly context: ConsolesContext;
  private readonly typesIntoVirtio: boolean;

  /** Opens their ends on the host. Throws VmError SOCKET_IN_USE or HOST_PATH. */
  constructor(config: VmConfig, context: ConsolesContext) {
    this.context = context;
    const { serial, console, debug_console: debug } = config;
    if (serial.mode !== 'Off') {
      const handles = {
        shared: createSerialShared(),
        irqEvent: this.ownEventFd(),
        wakeEvent: this.ownEventFd(),
      };
      const host = new SerialHost(handles.shared, () => {
        signalEventFd(handles.irqEvent);
      });
      this.serialHandles = handles;
      this.serial = this.open('serial', serial, host, handles.wakeEvent);
    }
    if (console.mode !== 'Off') {
      const log = (level: LogLevel, message: string): void => {
        context.log(level, 'console', message);
      };
      const attached = attachConsole(console, { resources: context.resources, log });
      this.device = attached.device;
      this.virtio = this.announce('console', attached.console);
    }
    if (debug !== undefined && debug.mode !== 'Off') {
      const shared = createDebugConsoleShared();
      const handles = { shared, wakeEvent: this.ownEventFd(), port: debug.iobase ?? DEBUG_CONSOLE_PORT };
      this.debugHandles = handles;
      this.debug = this.open('debug-console', debug, new DebugConsoleHost(shared), handles.wakeEvent);
    }
    this.typesIntoVirtio = console.mode === 'Tty';
  }

  /**
   * The one that a user types at: the virtio console when it is on the terminal, which the rules give to one of the two
   * only, or when there is no serial port.
   */
  get main(): VmConsole {
    return (this.typesIntoVirtio ? this.virtio : (this.serial ?? this.virtio)) ?? NO_CONSOLE;
  }

  /** For a reset of the machine, while no vCPU runs. What the guest printed before is still delivered. */
  reset(): void {
    if (this.serialHandles !== undefined) resetSerialRegisters(this.serialHandles.shared);
  }

  /** Delivers what the guest printed last, waiting a bounded time for an output that is stuck. */
  async flush(): Promise<void> {
    await Promise.all([this.serial?.flush(), this.virtio?.flush(), this.debug?.flush()]);
  }

  private open(
    name: 'serial' | 'debug-console',
    config: Parameters<typeof openHostEnd>[1],
    port: ConsolePort,
    wakeEvent: Fd,
  ): GuestConsole {
    const { resources, log } = this.context;
    const warn = (message: string): void => {
      log('warn', name, message);
    };
    const guestConsole = resources.own(
      new GuestConsole(port, wakeEvent, (input) => openHostEnd(`--${name}`, config, input, warn), warn),
      (owned) => {
        owned.close();
      },
    );
    return this.announce(name, guestConsole);
  }

  private announce(name: string, console: GuestConsole): GuestConsole {
    if (console.path !== undefined) this.context.log('info', name, `at ${console.path}`);
    return console;
  }

  private ownEventFd(): Fd {
    return this.context.resources.own(createEventFd(), close);
  }
}
