// What is measured of the process, under the names that Prometheus's own libraries give it.

import { packageVersion } from '../../platform/package-version.js';
import { counter, gauge, single, type MetricFamily } from './family.js';

export function processMetrics(): MetricFamily[] {
  const { user, system } = process.cpuUsage();
  const start = performance.timeOrigin / 1000;
  return [
    gauge('tsvmm_info', 'The version of tsvmm.', [{ labels: { version: packageVersion() }, value: 1 }]),
    gauge(
      'process_resident_memory_bytes',
      'Memory of the process that is in RAM, that of its guests included.',
      single(process.memoryUsage.rss()),
    ),
    counter(
      'process_cpu_seconds_total',
      'Processor time of the process, in user and kernel mode; most of it is its guests.',
      single((user + system) / 1e6),
    ),
    gauge('process_start_time_seconds', 'When the process began, in seconds since 1970.', single(start)),
  ];
}
