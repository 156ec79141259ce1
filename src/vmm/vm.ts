// A virtual machine: builds it, supervises its workers, takes it down. Main thread.
//
// Creation starts the worker threads (or takes those started before), and while they load their modules opens KVM,
// allocates memory and loads the guest. Every end (guest shutdown or reset, `stop`, a crash of the
// guest, the failure of a worker) goes through `finish`, which stops all workers, joins them within a bounded time and
// releases everything in reverse order.

import { fileURLToPath } from 'node:url';
import { buildCommandLine, DEFAULT_LINUX_CMDLINE } from '../boot/command-line.js';
import { loadGuest } from '../boot/load.js';
import type { BootState } from '../boot/state.js';
import { MAX_GUEST_CID, MIN_GUEST_CID } from '../config/rules/vsock.js';
import { ensureValidVmConfig } from '../config/valid-config.js';
import type { VmConfig, VmConfigInput } from '../config/vm-config.js';
import { COM1_IRQ } from '../devices/legacy/serial-registers.js';
import { createSerialShared } from '../devices/legacy/serial-shared.js';
import { createMmioPage, MMIO_DEVICE_SIZE, REG_QUEUE_NOTIFY, type MmioDeviceIdentity } from '../devices/virtio/mmio.js';
import { createEventFd, signalEventFd } from '../platform/eventfd.js';
import { GuestMemory, type MemoryMap } from '../platform/guest-memory.js';
import { close } from '../platform/libc.js';
import { SOCK_SEQPACKET, SOCK_STREAM, type SocketType } from '../platform/unix-socket.js';
import { formatBytes, type Fd } from '../platform/units.js';
import type { ConnectionInfo } from '../vsock/connection-info.js';
import { createCounterMemory, VsockCounters, type VsockCounterSnapshot } from '../vsock/counters.js';
import { vsockIdentity } from '../vsock/device.js';
import { VsockError } from '../vsock/in-process/errors.js';
import { VsockHost, type ConnectOptions } from '../vsock/in-process/host.js';
import type { VsockServer } from '../vsock/in-process/server.js';
import type { VsockStream } from '../vsock/in-process/stream.js';
import { VIRTIO_MMIO_BASE } from './buses.js';
import { ControlBlock } from './control.js';
import { guestCpuid } from './cpuid.js';
import { VmError } from './errors.js';
import { HostSocket } from './host-socket.js';
import { KvmSystem, type CpuidEntry } from './kvm/system.js';
import { KvmVm } from './kvm/vm-fd.js';
import { AllocatedMemory } from './memory.js';
import { ReleaseStack } from './release-stack.js';
import { SerialConsole, type ConsoleListener } from './serial-console.js';
import { registerSibling } from './siblings.js';
import { epochNow, newStartTimes, type StartTimes } from './start-times.js';
import type {
  IoMessage,
  IoStart,
  LogLevel,
  MmioDeviceHandles,
  SerialHandles,
  VcpuMessage,
  VcpuStart,
  VsockHandles,
} from './worker-protocol.js';
import { takeIoThread, takeVcpuThread, type IoThread, type VcpuThread } from './worker-pool.js';

export { VmError } from './errors.js';
export type { LogLevel } from './worker-protocol.js';

/** The guest that runs when the configuration names no kernel. */
export const BUILT_IN_GUEST = fileURLToPath(new URL('../../../firmware/tsvmm-guest.elf', import.meta.url));

/** What the built-in guest writes to port 0x80 before anything else. */
const POST_CODE_FIRST_INSTRUCTION = 1;
/** Interrupt lines of the virtio devices, in the order of their pages: 0 to 4 belong to the legacy devices. */
const FIRST_VIRTIO_GSI = 5;

/** Receives what the VM has to say. */
export type VmLog = (level: LogLevel, component: string, message: string) => void;

/** How a VM ended. */
export type VmExit =
  /** The guest powered off or reset itself, or `stop` was called. */
  | { readonly reason: 'shutdown' | 'reset' | 'stopped' }
  /** The guest cannot go on (triple fault, KVM internal error); the report says where it stood. */
  | { readonly reason: 'crash'; readonly report: string }
  /** A worker failed: a bug of this project. */
  | { readonly reason: 'failure'; readonly error: Error };

export interface VmOptions {
  readonly log?: VmLog;
  /** With 'debug' the log has a line about every vsock connection that ends, which otherwise is not even put together. */
  readonly logLevel?: LogLevel;
}

/** What the guest's console offers to the host. */
export interface VmConsole {
  /**
   * Types `bytes` at the guest's serial port. Resolves when the port has taken them all or the VM has ended; at once,
   * with nothing done, when there is no port.
   */
  write(bytes: Uint8Array): Promise<void>;
  /** Calls `listener` with all output from now on; returns the function that ends it. */
  onOutput(listener: ConsoleListener): () => void;
}

/** Streams between this process and the guest, without a socket. */
export interface VmVsock {
  /** The guest's context id. */
  readonly cid: number;
  /** Opens a stream to port `port` of the guest. Rejects with VsockError, or RangeError for arguments that cannot be. */
  connect(port: number, options?: ConnectOptions): Promise<VsockStream>;
  /**
   * Serves connections of the guest to (CID 2, `port`) in this process; they do not go to a Unix socket then. May be
   * called before the VM starts. Throws VsockError or RangeError.
   */
  listen(port: number, onConnection?: (stream: VsockStream) => void): VsockServer;
  /**
   * Lets this guest and that of `other`, a VM of this process with another CID, reach each other by their CIDs, without
   * a socket. Throws VsockError NO_DEVICE, or RangeError when the CIDs are the same.
   */
  join(other: Vm): void;
  /**
   * What the device has counted since the VM was created: Numbers, exact up to 2^53, read without asking the worker. One
   * may be a moment ahead of another.
   */
  counters(): VsockCounterSnapshot;
  /** The guest's connections at present. Rejects with VsockError CLOSED when the VM has ended. */
  connections(): Promise<readonly ConnectionInfo[]>;
  /**
   * Gives the guest another context id while it runs. All its connections end; a driver that is up is told to read the
   * new one (TRANSPORT_RESET), a later one finds it. Throws RangeError for an id that a guest cannot have. Other VMs
   * know the guest by its first one.
   */
  setGuestCid(cid: number): void;
}

interface VirtioSlot {
  readonly handles: MmioDeviceHandles & { readonly irqEvent: Fd };
  readonly gpa: number;
  readonly irq: number;
}

/** One virtual machine, from `create` to `exited`. */
export class Vm {
  readonly config: VmConfig;
  /** Settles once, after everything the VM owned was released. */
  readonly exited: Promise<VmExit>;

  private readonly times = newStartTimes();
  private readonly log: VmLog;
  private readonly logLevel: LogLevel;
  private readonly vsockCounters = createCounterMemory();
  /** When it is no longer what the configuration says. */
  private guestCid: number | undefined;
  private readonly resources = new ReleaseStack();
  private readonly control = ControlBlock.create();
  private readonly settle: (exit: VmExit) => void;
  private readonly vcpu: VcpuThread;
  private io: IoThread | undefined;
  private serialConsole: SerialConsole | undefined;
  private vsockHost: VsockHost | undefined;
  private stopEvent: Fd | undefined;
  private prepared: { vcpu: VcpuStart; io: IoStart | undefined } | undefined;
  private state: 'created' | 'running' | 'ending' = 'created';

  private constructor(config: VmConfig, { log = () => undefined, logLevel = 'info' }: VmOptions) {
    this.config = config;
    this.log = log;
    this.logLevel = logLevel;
    let settle: ((exit: VmExit) => void) | undefined;
    this.exited = new Promise((resolve) => {
      settle = resolve;
    });
    this.settle = (exit) => settle?.(exit);
    this.vcpu = takeVcpuThread().attach({
      onMessage: (message) => {
        this.handleVcpuMessage(message);
      },
      onFailure: (error) => {
        this.fail('vcpu0', error);
      },
    });
  }

  /**
   * Builds a VM that is ready to start. Throws VmError, BootError or ConfigError, with everything released again.
   */
  static async create(config: VmConfigInput, options: VmOptions = {}): Promise<Vm> {
    const vm = new Vm(await ensureValidVmConfig(config), options);
    vm.times.create = epochNow();
    try {
      vm.build();
      return vm;
    } catch (error) {
      await vm.tearDown();
      throw error;
    }
  }

  /** Whether the guest is the one built into tsvmm. */
  get builtInGuest(): boolean {
    return this.config.payload.kernel === undefined;
  }

  get console(): VmConsole {
    return {
      write: (bytes) => this.serialConsole?.write(bytes) ?? Promise.resolve(),
      onOutput: (listener) => this.serialConsole?.onOutput(listener) ?? (() => undefined),
    };
  }

  /** Streams to and from the guest. Throws VsockError NO_DEVICE when the configuration has no vsock. */
  get vsock(): VmVsock {
    const { vsockHost } = this;
    const { vsock } = this.config;
    if (vsockHost === undefined || vsock === undefined) throw new VsockError('NO_DEVICE');
    return {
      cid: this.guestCid ?? vsock.cid,
      connect: (port, options) => vsockHost.connect(port, options),
      listen: (port, onConnection) => vsockHost.listen(port, onConnection),
      join: (other) => this.joinSibling(other),
      counters: () => new VsockCounters(this.vsockCounters).snapshot(),
      connections: () => vsockHost.connections(),
      setGuestCid: (cid) => {
        if (!Number.isInteger(cid) || cid < MIN_GUEST_CID || cid > MAX_GUEST_CID) {
          throw new RangeError(
            `${cid} is not a context id that a guest can have; use ${MIN_GUEST_CID} to ${MAX_GUEST_CID}`,
          );
        }
        this.guestCid = cid;
        vsockHost.setGuestCid(cid);
      },
    };
  }

  /** Exits to user space that vCPU 0 has taken so far, to within 64. */
  get exitCount(): number {
    return this.control.exitCount(0);
  }

  /** Where the time of this VM's start went. */
  get startTimes(): StartTimes {
    return { ...this.times, firstInstruction: this.control.postCodeTime(POST_CODE_FIRST_INSTRUCTION) };
  }

  /** Lets the guest run. Throws Error when it was started or ended before. */
  start(): Promise<void> {
    const { prepared } = this;
    if (this.state !== 'created' || prepared === undefined) {
      return Promise.reject(new Error('a VM starts once, before it has ended'));
    }
    this.state = 'running';
    this.prepared = undefined;
    if (prepared.io !== undefined) this.io?.start(prepared.io, [prepared.io.vsock.inProcess.port]);
    this.vsockHost?.started();
    this.vcpu.start(prepared.vcpu);
    return Promise.resolve();
  }

  /** Ends the VM as pulling the plug does; returns when everything is released. Does nothing if it has ended. */
  async stop(): Promise<void> {
    this.finish({ reason: 'stopped' });
    await this.exited;
  }

  private build(): void {
    const { config, resources } = this;
    if (config.vsock !== undefined) this.io = this.startIoThread();
    const system = resources.own(KvmSystem.open(), (kvm) => {
      kvm.close();
    });
    this.times.kvm = epochNow();
    const vm = resources.own(new KvmVm(system), (kvm) => {
      kvm.close();
    });
    const ram = resources.own(new AllocatedMemory(config.memory.size), (memory) => {
      memory.close();
    });
    vm.setMemory(ram.map);
    this.times.memory = epochNow();

    const serial = this.buildSerial(vm);
    const slots: VirtioSlot[] = [];
    const vsock = config.vsock === undefined ? undefined : this.buildVsock(vm, slots, config.vsock);
    const boot = this.load(ram.map, slots);
    this.times.loaded = epochNow();

    const { vcpus, cpuid } = this.processors(system);
    this.log('debug', 'vmm', `${vcpus} vCPU, ${formatBytes(config.memory.size)} of memory, entry by ${boot.protocol}`);
    this.stopEvent = this.ownEventFd();
    this.prepared = {
      vcpu: {
        index: 0,
        vmFd: vm.fd,
        mmapSize: system.vcpuMmapSize,
        cpuid,
        boot,
        control: this.control.buffer,
        devices: slots.map(({ handles }) => handles),
        serial,
      },
      io:
        vsock === undefined
          ? undefined
          : { control: this.control.buffer, stopEvent: this.stopEvent, memory: ram.map, vsock },
    };
  }

  private joinSibling(other: Vm): void {
    const here = this.vsockHost;
    const there = other.vsockHost;
    if (here === undefined || there === undefined) throw new VsockError('NO_DEVICE');
    if (here.cid === there.cid) throw new RangeError(`two guests with CID ${here.cid} cannot tell each other apart`);
    here.addSibling(there);
    there.addSibling(here);
  }

  private processors(system: KvmSystem): { vcpus: number; cpuid: CpuidEntry[] } {
    const vcpus = this.config.cpus.boot_vcpus;
    const { tscDeadlineTimer } = system;
    return { vcpus, cpuid: guestCpuid(system.supportedCpuid(), { vcpu: 0, vcpuCount: vcpus, tscDeadlineTimer }) };
  }

  private load(map: MemoryMap, slots: readonly VirtioSlot[]): BootState {
    const { payload, cpus } = this.config;
    const base = payload.cmdline ?? (this.builtInGuest ? '' : DEFAULT_LINUX_CMDLINE);
    return loadGuest(new GuestMemory(map), {
      kernel: payload.kernel ?? BUILT_IN_GUEST,
      initramfs: payload.initramfs,
      cmdline: buildCommandLine(base, slots),
      cpus: cpus.boot_vcpus,
    });
  }

  private buildSerial(vm: KvmVm): SerialHandles | undefined {
    const { serial } = this.config;
    if (serial.mode === 'Off') return undefined;
    const handles: SerialHandles = {
      shared: createSerialShared(),
      irqEvent: this.ownEventFd(),
      wakeEvent: this.ownEventFd(),
    };
    vm.addIrqFd(handles.irqEvent, COM1_IRQ);
    this.serialConsole = this.resources.own(
      new SerialConsole(serial, handles, (message) => {
        this.log('warn', 'serial', message);
      }),
      (console) => {
        console.close();
      },
    );
    return handles;
  }

  private buildVsock(vm: KvmVm, slots: VirtioSlot[], config: NonNullable<VmConfig['vsock']>): VsockHandles {
    const { socket } = config;
    const listener = socket === undefined ? undefined : this.listenAt(socket, SOCK_STREAM);
    // A socket has one type for good, so SEQPACKET clients need one of their own.
    const seqpacketPath = `${socket}.seqpacket`;
    const seqpacketListener = socket === undefined ? undefined : this.listenAt(seqpacketPath, SOCK_SEQPACKET);
    const { handles } = this.addVirtioDevice(vm, slots, vsockIdentity(config.cid));
    const host = this.resources.own(new VsockHost(config.cid), (streams) => {
      streams.close();
    });
    this.vsockHost = host;
    this.resources.own(registerSibling(host, config), (leave) => {
      leave();
    });
    const { cid: guestCid, peers } = config;
    const sockets = { socketPath: socket, listener, seqpacketListener };
    const limits = {
      maxConnections: config.max_connections,
      bufAlloc: config.buf_alloc,
      connectTimeoutMs: config.connect_timeout_ms,
      busyPollMicroseconds: config.poll_us,
    };
    const insight = { counters: this.vsockCounters, logConnections: this.logLevel === 'debug' };
    return { ...handles, ...sockets, ...limits, ...insight, guestCid, peers, inProcess: host.handles };
  }

  private listenAt(path: string, type: SocketType): Fd {
    const socket = this.resources.own(new HostSocket('--vsock', path, type), (host) => {
      host.close();
    });
    return socket.fd;
  }

  private addVirtioDevice(vm: KvmVm, slots: VirtioSlot[], identity: MmioDeviceIdentity): VirtioSlot {
    const gpa = VIRTIO_MMIO_BASE + slots.length * MMIO_DEVICE_SIZE;
    const irq = FIRST_VIRTIO_GSI + slots.length;
    const irqEvent = this.ownEventFd();
    vm.addIrqFd(irqEvent, irq);
    const queueEvents = identity.queueSizes.map((_, queue) => {
      const event = this.ownEventFd();
      vm.addMmioEventFd(event, gpa + REG_QUEUE_NOTIFY, queue);
      return event;
    });
    const handles = { page: createMmioPage(identity), requestEvent: this.ownEventFd(), queueEvents, irqEvent };
    const slot = { handles, gpa, irq };
    slots.push(slot);
    return slot;
  }

  private ownEventFd(): Fd {
    return this.resources.own(createEventFd(), close);
  }

  private startIoThread(): IoThread {
    return takeIoThread().attach({
      onMessage: (message) => {
        this.handleIoMessage(message);
      },
      onFailure: (error) => {
        this.fail('vsock', error);
      },
    });
  }

  private handleVcpuMessage(message: VcpuMessage): void {
    switch (message.type) {
      case 'running':
        this.times.workerLoaded = message.modulesLoaded;
        this.times.entering = message.entering;
        this.log('debug', 'vcpu0', 'running');
        return;
      case 'outcome': {
        const { outcome } = message;
        if (outcome.kind === 'crash') this.finish({ reason: 'crash', report: outcome.report });
        else this.finish({ reason: outcome.kind });
        return;
      }
      case 'failed':
        this.fail('vcpu0', Object.assign(new Error(message.message), { stack: message.stack }));
        return;
    }
  }

  private handleIoMessage(message: IoMessage): void {
    switch (message.type) {
      case 'running':
        this.log('debug', 'vsock', 'running');
        return;
      case 'log':
        this.log(message.level, message.component, message.message);
        return;
      case 'stopped':
        return;
      case 'failed':
        this.fail('vsock', Object.assign(new Error(message.message), { stack: message.stack }));
        return;
    }
  }

  private fail(worker: string, error: Error): void {
    const mend = 'this is a bug of tsvmm: please report it with this message';
    this.finish({ reason: 'failure', error: new VmError('INTERNAL', `${worker}: ${error.message}`, mend, error) });
  }

  private finish(exit: VmExit): void {
    if (this.state === 'ending') return;
    this.state = 'ending';
    this.tearDown().then(
      () => {
        this.settle(exit);
      },
      (error: unknown) => {
        this.settle({ reason: 'failure', error: error instanceof Error ? error : new Error(String(error)) });
      },
    );
  }

  /** Stops and joins every worker, then releases everything. Throws VmError INTERNAL when a worker does not end. */
  private async tearDown(): Promise<void> {
    this.state = 'ending';
    this.vsockHost?.ending();
    this.control.requestStop();
    // vCPUs first: one that waits for the I/O worker's acknowledgement gets it.
    const vcpuEnded = await this.vcpu.join(() => {
      this.control.kickVcpu(0);
    });
    const ioEnded = await this.io?.join(() => {
      if (this.stopEvent !== undefined) signalEventFd(this.stopEvent);
    });
    this.vsockHost?.close();
    await this.serialConsole?.flush();
    this.log('debug', 'vmm', `start times: ${JSON.stringify(this.startTimes)}`);
    if (!vcpuEnded || ioEnded === false) {
      // Its descriptors and its memory are still in use: releasing them under it would be worse than keeping them.
      throw new VmError(
        'INTERNAL',
        `the ${vcpuEnded ? 'vsock' : 'vcpu0'} worker did not end in time`,
        'this is a bug of tsvmm: please report it; end the process to free what it holds',
      );
    }
    this.resources.releaseAll();
  }
}
