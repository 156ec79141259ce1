// Measurements as text, for Prometheus to collect.
//
// Format: Prometheus, "Exposition formats", text format 0.0.4. Left out: timestamps, and types that nothing here has
// (histograms, summaries).

import type { MetricFamily, MetricSample } from './family.js';

/** The Content-Type under which `prometheusText` is to be served. */
export const PROMETHEUS_CONTENT_TYPE = 'text/plain; version=0.0.4; charset=utf-8';

/**
 * `vm.metrics()` as text for Prometheus to collect, format 0.0.4. Families without a sample are left out. Those of several VMs
 * need a label of their own first.
 */
export function prometheusText(families: readonly MetricFamily[]): string {
  return families
    .filter(({ samples }) => samples.length > 0)
    .map(({ name, help, type, samples }) => {
      const lines = samples.map((sample) => `${name}${labelsOf(sample)} ${valueOf(sample)}\n`);
      return `# HELP ${name} ${escapeHelp(help)}\n# TYPE ${name} ${type}\n${lines.join('')}`;
    })
    .join('');
}

function labelsOf({ labels }: MetricSample): string {
  const pairs = Object.entries(labels).map(([name, value]) => `${name}="${escapeLabel(value)}"`);
  return pairs.length === 0 ? '' : `{${pairs.join(',')}}`;
}

/** As Go writes numbers, which JavaScript does too but for this one. */
function valueOf({ value }: MetricSample): string {
  if (Math.abs(value) === Infinity) return value > 0 ? '+Inf' : '-Inf';
  return String(value);
}

function escapeHelp(text: string): string {
  return text.replaceAll('\\', '\\\\').replaceAll('\n', '\\n');
}

function escapeLabel(text: string): string {
  return escapeHelp(text).replaceAll('"', '\\"');
}
