// GET /metrics: what is measured, for Prometheus. Not one of Cloud Hypervisor's endpoints.

import { PROMETHEUS_CONTENT_TYPE, prometheusText } from '../vmm/metrics/prometheus.js';
import type { Monitor } from './monitor.js';
import type { ExtraRoute } from './server.js';

export function metricsRoute(monitor: Monitor): ExtraRoute {
  return {
    path: '/metrics',
    contentType: PROMETHEUS_CONTENT_TYPE,
    body: async () => prometheusText(await monitor.metrics()),
  };
}
