// Entry point of a vCPU worker thread: sets its vCPU up and sits in KVM_RUN until the VM ends; then another VM may take it.

import { receiveMessageOnPort, type MessagePort } from 'node:worker_threads';
import { EVENT_PORT, EventDevice } from '../devices/legacy/event-device.js';
import { DebugConsole } from '../devices/legacy/debug-console.js';
import { I8042, I8042_BASE_PORT, I8042_PORT_COUNT } from '../devices/legacy/i8042.js';
import { PvPanic, PVPANIC_PORT } from '../devices/legacy/pvpanic.js';
import { COM1_PORT, SERIAL_PORT_COUNT } from '../devices/legacy/serial-registers.js';
import { SerialPort } from '../devices/legacy/serial.js';
import { SLEEP_CONTROL_PORT, SleepControl } from '../devices/legacy/sleep-control.js';
import { Watchdog, WATCHDOG_BASE_PORT, WATCHDOG_PORT_COUNT } from '../devices/legacy/watchdog.js';
import { MmioRegisters } from '../devices/virtio/mmio.js';
import { signalEventFd } from '../platform/eventfd.js';
import { bindThread } from '../platform/affinity.js';
import { currentThreadId } from '../platform/libc.js';
import { installKickHandler } from '../platform/signals.js';
import { MmioBus, PortBus, type PortDevice } from './buses.js';
import { ControlBlock, orderKind, ORDER_RUN, ORDER_SAVE } from './control.js';
import { epochNow } from './start-times.js';
import { KvmVcpu } from './kvm/vcpu-fd.js';
import { restoreVcpu, saveVcpu, type SaveRequest } from './snapshot/vcpu.js';
import { runVcpu, type PowerRequest, type VcpuOutcome } from './vcpu-loop.js';
import { enterBootState, setUpVcpu } from './vcpu-state.js';
import type { VcpuMessage, VcpuStart } from './worker-protocol.js';
import { runService } from './worker-service.js';

const modulesLoaded = epochNow();

const POST_CODE_PORT = 0x80;

/** Port 0x80: firmware writes progress codes there. The first time of each is kept. */
class PostCodePort implements PortDevice {
  private readonly control: ControlBlock;

  constructor(control: ControlBlock) {
    this.control = control;
  }

  read(): number {
    return 0;
  }

  write(_offset: number, value: number): void {
    this.control.notePostCode(value);
  }
}

type Send = (message: VcpuMessage) => void;

function buildPorts(start: VcpuStart, control: ControlBlock, power: PowerRequest, send: Send): PortBus {
  const ports = new PortBus();
  const { serial, i8042, events, debugConsole, pvpanic, watchdog } = start.ports;
  if (debugConsole !== undefined) {
    const port = new DebugConsole(debugConsole.shared, () => {
      signalEventFd(debugConsole.wakeEvent);
    });
    ports.add(debugConsole.port, 1, port);
  }
  if (serial !== undefined) {
    const port = new SerialPort(
      serial.shared,
      () => {
        signalEventFd(serial.irqEvent);
      },
      () => {
        signalEventFd(serial.wakeEvent);
      },
    );
    ports.add(COM1_PORT, SERIAL_PORT_COUNT, port);
  }
  const request = (action: 'shutdown' | 'reset'): void => {
    power.action = action;
  };
  ports.add(I8042_BASE_PORT, I8042_PORT_COUNT, new I8042(request, i8042));
  ports.add(SLEEP_CONTROL_PORT, 1, new SleepControl(request));
  ports.add(EVENT_PORT, 1, new EventDevice(events.shared));
  if (pvpanic) {
    const port = new PvPanic((event) => {
      send({ type: 'event', event });
    });
    ports.add(PVPANIC_PORT, 1, port);
  }
  if (watchdog !== undefined) {
    const timer = new Watchdog(watchdog.shared, () => {
      signalEventFd(watchdog.changedEvent);
    });
    ports.add(WATCHDOG_BASE_PORT, WATCHDOG_PORT_COUNT, timer);
  }
  ports.add(POST_CODE_PORT, 1, new PostCodePort(control));
  return ports;
}

function buildMmio(start: VcpuStart, control: ControlBlock): MmioBus {
  return new MmioBus(
    start.devices.map(
      (device) =>
        new MmioRegisters(
          device.page,
          device.requestEvent,
          (queue) => {
            signalEventFd(device.queueEvents[queue]);
          },
          () => control.stopRequested,
        ),
    ),
  );
}

function begin(vcpu: KvmVcpu, { begin: from, cpuid }: VcpuStart): void {
  if (from.kind === 'restore') {
    restoreVcpu(vcpu, from.state, from.elapsedNs);
    return;
  }
  setUpVcpu(vcpu, cpuid);
  if (from.kind === 'boot') enterBootState(vcpu, from.boot);
}

/** Waits outside the guest while the machine is paused, and reports the vCPU's state when asked to. */
function park(vcpu: KvmVcpu, start: VcpuStart, control: ControlBlock, from: MessagePort): void {
  const tell = (message: VcpuMessage): void => {
    from.postMessage(message);
  };
  for (;;) {
    const order = control.currentOrder;
    const kind = orderKind(order);
    if (kind === ORDER_RUN || control.stopRequested) break;
    if (kind === ORDER_SAVE) {
      const { message } = receiveMessageOnPort(from) as { message: SaveRequest };
      tell({ type: 'state', state: saveVcpu(vcpu, start.cpuid, message) });
    } else tell({ type: 'parked', order });
    control.awaitOtherOrder(order);
  }
  vcpu.notePause();
}

function runToTheEnd(start: VcpuStart, from: MessagePort): VcpuOutcome {
  const send = (message: VcpuMessage): void => {
    from.postMessage(message);
  };
  const control = new ControlBlock(start.control);
  const power: PowerRequest = { action: 'none' };
  installKickHandler();
  const unbind = start.affinity === undefined ? undefined : bindThread(start.affinity);
  const vcpu = new KvmVcpu(start.vmFd, start.index, start.mmapSize);
  try {
    begin(vcpu, start);
    const ports = buildPorts(start, control, power, send);
    const mmio = buildMmio(start, control);
    control.vcpuRunning(start.index, currentThreadId(), vcpu.runAddress);
    control.vcpuReady();
    try {
      // KVM drops a wake-up that comes before its vCPU exists.
      if (start.begin.kind === 'boot' && !control.awaitVcpus(start.vcpuCount)) return { kind: 'stopped' };
      send({ type: 'running', modulesLoaded, entering: epochNow() });
      return runVcpu({
        vcpu,
        index: start.index,
        ports,
        mmio,
        power,
        control,
        park: () => {
          park(vcpu, start, control, from);
        },
      });
    } finally {
      control.vcpuStopped(start.index);
    }
  } finally {
    vcpu.close();
    unbind?.();
  }
}

runService<VcpuStart>('vcpu-worker.js', {
  serve: (start, port) => {
    try {
      const message: VcpuMessage = { type: 'outcome', outcome: runToTheEnd(start, port) };
      port.postMessage(message);
    } finally {
      new ControlBlock(start.control).threadEnded();
    }
  },
});
