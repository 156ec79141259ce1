/**
 * What happens to a virtual machine, and what is measured of it ([docs/operating.md](../operating.md)).
 *
 * @module events-and-metrics
 */

export type { VmEvent, VmEventDetails, VmEventOf, VmEvents, VmEventType } from '../vmm/events.js';
export type { MetricFamily, MetricSample } from '../vmm/metrics/family.js';
export { PROMETHEUS_CONTENT_TYPE, prometheusText } from '../vmm/metrics/prometheus.js';
