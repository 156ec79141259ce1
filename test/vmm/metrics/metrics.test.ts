// What is measured, and the text that Prometheus collects, read by a parser that is not ours.

import { createRequire } from 'node:module';
import { describe, expect, test } from '@jest/globals';
import { BALLOON_COUNTERS } from '../../../src/devices/balloon/settings.js';
import { BLOCK_COUNTERS } from '../../../src/devices/block/settings.js';
import { CONSOLE_COUNTERS } from '../../../src/devices/console/settings.js';
import { NET_COUNTERS } from '../../../src/devices/net/settings.js';
import { PMEM_COUNTERS } from '../../../src/devices/pmem/settings.js';
import { RNG_COUNTERS } from '../../../src/devices/rng/settings.js';
import { VsockCounters } from '../../../src/vsock/counters.js';
import { DEVICE_METRICS, type DeviceReading } from '../../../src/vmm/metrics/device-metrics.js';
import { prometheusText } from '../../../src/vmm/metrics/prometheus.js';
import { stateMetrics, vmMetrics } from '../../../src/vmm/metrics/vm-metrics.js';
import { newStartTimes } from '../../../src/vmm/start-times.js';

interface Parsed {
  readonly name: string;
  readonly help: string;
  readonly type: string;
  readonly metrics: readonly { readonly value: string; readonly labels?: Readonly<Record<string, string>> }[];
}

const parse = createRequire(import.meta.url)('parse-prometheus-text-format') as (text: string) => Parsed[];

const DECLARED: Readonly<Record<keyof typeof DEVICE_METRICS, readonly string[]>> = {
  balloon: BALLOON_COUNTERS,
  block: BLOCK_COUNTERS,
  console: CONSOLE_COUNTERS,
  net: NET_COUNTERS,
  pmem: PMEM_COUNTERS,
  rng: RNG_COUNTERS,
  vsock: Object.keys(new VsockCounters().snapshot()),
};
const KINDS = Object.keys(DECLARED) as (keyof typeof DECLARED)[];

/** One device of each kind, with other counts for each counter. */
const DEVICES: DeviceReading[] = KINDS.map((kind) => ({
  id: kind === 'block' ? 'a "disk"\\\n' : `_${kind}`,
  kind,
  counters: Object.fromEntries(DECLARED[kind].map((name, index) => [name, index + 1])),
}));

function families() {
  return vmMetrics({
    state: 'paused',
    vcpus: 2,
    memoryBytes: 2 ** 32,
    times: { ...newStartTimes(), create: 1000, kvm: 1250, entering: 3000 },
    events: { countOf: (type) => (type === 'paused' ? 3 : 0) },
    exits: [128, 64],
    devices: DEVICES,
  });
}

describe('metrics', () => {
  test.each(KINDS)('every counter of a %s device is one, and none that it does not have', (kind) => {
    expect(Object.keys(DEVICE_METRICS[kind]).sort()).toEqual([...DECLARED[kind]].sort());
  });

  test('their text is what another parser makes of the objects', () => {
    const expected = families();
    const parsed = parse(prometheusText(expected));
    expect(parsed.map(({ name, type, help }) => ({ name, type: type.toLowerCase(), help }))).toEqual(
      expected.map(({ name, type, help }) => ({ name, type, help })),
    );
    for (const [index, { metrics }] of parsed.entries()) {
      expect(metrics.map(({ labels = {}, value }) => ({ labels, value: Number(value) }))).toEqual(
        expected[index].samples,
      );
    }
  });

  test('names and labels follow the conventions', () => {
    const all = families();
    expect(new Set(all.map(({ name }) => name)).size).toBe(all.length);
    for (const { name, type, help, samples } of all) {
      expect(name).toMatch(/^(tsvmm|process)_[a-z0-9_]+$/);
      expect(name.endsWith('_total')).toBe(type === 'counter');
      expect(help).toMatch(/^[A-Z].*\.$/);
      const keys = samples.map(({ labels }) => JSON.stringify(labels));
      expect(new Set(keys).size).toBe(keys.length);
      expect(new Set(samples.map(({ labels }) => Object.keys(labels).join()))).toHaveProperty('size', 1);
    }
  });

  test('say what they were given', () => {
    const value = (name: string, labels: Readonly<Record<string, string>> = {}): number | undefined =>
      families()
        .find((family) => family.name === name)
        ?.samples.find((sample) => JSON.stringify(sample.labels) === JSON.stringify(labels))?.value;
    expect(value('tsvmm_vm_state', { state: 'paused' })).toBe(1);
    expect(value('tsvmm_vm_state', { state: 'running' })).toBe(0);
    expect(value('tsvmm_vm_start_time_seconds')).toBe(3);
    expect(value('tsvmm_vm_start_phase_seconds', { phase: 'kvm' })).toBe(0.25);
    expect(value('tsvmm_vm_start_phase_seconds', { phase: 'memory' })).toBeUndefined();
    expect(value('tsvmm_vm_events_total', { event: 'paused' })).toBe(3);
    expect(value('tsvmm_vcpu_exits_total', { vcpu: '1' })).toBe(64);
    expect(value('tsvmm_device_info', { device: '_net', kind: 'net' })).toBe(1);
    const [block] = DEVICES.filter(({ kind }) => kind === 'block');
    expect(value('tsvmm_block_host_seconds_total', { device: block.id, operation: 'read' })).toBeCloseTo(
      block.counters['read_us'] / 1e6,
    );
    expect(value('process_resident_memory_bytes')).toBeGreaterThan(1e6);
  });

  test('without a VM no state holds', () => {
    expect(stateMetrics(undefined)[0].samples.every(({ value }) => value === 0)).toBe(true);
  });
});

describe('the text format', () => {
  test('quotes what has to be, and leaves out families without a sample', () => {
    const text = prometheusText([
      {
        name: 'a',
        help: 'one\\two\nthree "four"',
        type: 'gauge',
        samples: [{ labels: { l: '"\\\n' }, value: Infinity }],
      },
      { name: 'b', help: 'none', type: 'gauge', samples: [] },
      { name: 'c_total', help: 'c', type: 'counter', samples: [{ labels: {}, value: 1e21 }] },
    ]);
    expect(text).toBe(
      [
        '# HELP a one\\\\two\\nthree "four"',
        '# TYPE a gauge',
        'a{l="\\"\\\\\\n"} +Inf',
        '# HELP c_total c',
        '# TYPE c_total counter',
        'c_total 1e+21',
        '',
      ].join('\n'),
    );
  });
});
