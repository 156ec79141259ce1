// What is measured of one VM. Main thread; loaded when somebody asks.

import type { VmEvents, VmEventType } from '../events.js';
import type { StartTimes } from '../start-times.js';
import { deviceMetrics, type DeviceReading } from './device-metrics.js';
import { counter, gauge, single, type MetricFamily } from './family.js';
import { processMetrics } from './process.js';

export const VM_STATES = ['created', 'running', 'paused', 'ended'] as const;
export type VmMetricState = (typeof VM_STATES)[number];

export interface VmReadings {
  readonly state: VmMetricState;
  readonly vcpus: number;
  readonly memoryBytes: number;
  readonly times: StartTimes;
  readonly events: Pick<VmEvents, 'countOf'>;
  /** Of each vCPU, since the guest last booted. */
  readonly exits: readonly number[];
  readonly devices: readonly DeviceReading[];
}

/** Those that are worth an alarm or a graph. Others come in pairs with one of them. */
const COUNTED_EVENTS: readonly VmEventType[] = [
  'booted',
  'reset',
  'rebooted',
  'paused',
  'resumed',
  'snapshotted',
  'restored',
  'panicked',
  'crash-loaded',
  'watchdog-expired',
];

/** By what the time ended with. */
const PHASES: readonly (readonly [phase: string, time: keyof StartTimes])[] = [
  ['kvm', 'kvm'],
  ['memory', 'memory'],
  ['loaded', 'loaded'],
  ['worker_loaded', 'workerLoaded'],
  ['entering', 'entering'],
  ['first_instruction', 'firstInstruction'],
];

export function vmMetrics(readings: VmReadings): MetricFamily[] {
  const { state, vcpus, memoryBytes, times, events, exits, devices } = readings;
  const began = times.entering > 0;
  return [
    ...processMetrics(),
    ...stateMetrics(state),
    gauge('tsvmm_vm_vcpus', 'Processors of the VM.', single(vcpus)),
    gauge('tsvmm_vm_memory_bytes', 'Memory of the VM.', single(memoryBytes)),
    gauge(
      'tsvmm_vm_start_time_seconds',
      'When the guest began to run here, in seconds since 1970.',
      began ? single(times.entering / 1000) : [],
    ),
    gauge(
      'tsvmm_vm_uptime_seconds',
      'How long ago the guest began to run here.',
      began ? single(Math.max(0, Date.now() - times.entering) / 1000) : [],
    ),
    gauge(
      'tsvmm_vm_start_phase_seconds',
      'Time from when the VM was asked for until the phase of its start was through.',
      PHASES.filter(([, time]) => times[time] > 0).map(([phase, time]) => ({
        labels: { phase },
        value: Math.max(0, times[time] - times.create) / 1000,
      })),
    ),
    counter(
      'tsvmm_vm_events_total',
      'How often something happened to the VM.',
      COUNTED_EVENTS.map((type) => ({
        labels: { event: type.replaceAll('-', '_') },
        value: events.countOf(type),
      })),
    ),
    counter(
      'tsvmm_vcpu_exits_total',
      'Exits to user space since the guest last booted, to within 64.',
      exits.map((value, index) => ({ labels: { vcpu: String(index) }, value })),
    ),
    gauge(
      'tsvmm_device_info',
      'The devices of the VM.',
      devices.map(({ id, kind }) => ({ labels: { device: id, kind }, value: 1 })),
    ),
    ...deviceMetrics(devices),
  ];
}

/** `undefined`: there is no VM. */
export function stateMetrics(state: VmMetricState | undefined): MetricFamily[] {
  return [
    gauge(
      'tsvmm_vm_state',
      'The state of the VM: 1 for the one it is in; all are 0 when there is none.',
      VM_STATES.map((each) => ({ labels: { state: each }, value: each === state ? 1 : 0 })),
    ),
  ];
}
