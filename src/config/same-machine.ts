// What of a saved machine's configuration may be otherwise when it is restored: whatever names something of the host, or
// says how the host goes about it. The rest is what the guest has seen of its machine, and cannot change under it.

import type { VmConfig } from './vm-config.js';

/** Fields, or sections as a whole, that are the host's business. */
const OF_THE_HOST: ReadonlySet<string> = new Set([
  'cpus.affinity',
  'memory.mergeable',
  'memory.shared',
  'memory.hugepages',
  'memory.hugepage_size',
  'memory.prefault',
  'memory.thp',
  // For the guest's next reboot.
  'payload.kernel',
  'payload.initramfs',
  'serial',
  'console',
  'debug_console.mode',
  'debug_console.file',
  'vsock.cid',
  'vsock.socket',
  'vsock.peers',
  'vsock.max_connections',
  'vsock.buf_alloc',
  'vsock.poll_us',
  'vsock.connect_timeout_ms',
  'disks[].path',
  'disks[].direct',
  'disks[].image_type',
  'disks[].backing_files',
  'disks[].rate_limiter_config',
  'net[].tap',
  'net[].ip',
  'net[].mask',
  'net[].host_mac',
  'net[].rate_limiter_config',
  'pmem[].file',
  'rng',
  'io_threads',
  'no_reboot',
  'publish',
  'host_services',
]);

export interface Difference {
  /** `disks[0].readonly` */
  readonly field: string;
  readonly saved: unknown;
  readonly wanted: unknown;
}

/** The first field in which `wanted` is another machine than `saved`; undefined when they are the same. */
export function machineDifference(saved: VmConfig, wanted: VmConfig): Difference | undefined {
  return presenceDifference(saved, wanted) ?? differenceOf('', saved, wanted);
}

/** Where a device is there or not by a field that may change otherwise. */
function presenceDifference(saved: VmConfig, wanted: VmConfig): Difference | undefined {
  const presences: [string, (config: VmConfig) => unknown, (config: VmConfig) => unknown][] = [
    ['serial.mode', ({ serial }) => serial.mode !== 'Off', ({ serial }) => serial.mode],
    ['console.mode', ({ console }) => console.mode !== 'Off', ({ console }) => console.mode],
    ['debug_console.mode', (config) => hasDebugConsole(config), (config) => config.debug_console?.mode],
    ['vsock.cid', ({ vsock }) => vsock !== undefined, ({ vsock }) => vsock?.cid],
    ['payload.kernel', ({ payload }) => payload.kernel !== undefined, ({ payload }) => payload.kernel],
    // A guest with a kernel has one without being asked.
    ['rng', ({ rng, payload }) => (rng ?? payload.kernel) !== undefined, ({ rng }) => rng],
  ];
  const found = presences.find(([, presence]) => presence(saved) !== presence(wanted));
  if (found === undefined) return undefined;
  const [field, , value] = found;
  return { field, saved: value(saved), wanted: value(wanted) };
}

function hasDebugConsole({ debug_console }: VmConfig): boolean {
  return (debug_console?.mode ?? 'Off') !== 'Off';
}

function differenceOf(field: string, saved: unknown, wanted: unknown): Difference | undefined {
  if (OF_THE_HOST.has(field.replaceAll(/\[\d+\]/g, '[]'))) return undefined;
  if (Array.isArray(saved ?? wanted)) return listDifference(field, asList(saved), asList(wanted));
  if (isRecord(saved ?? wanted)) {
    const [before, now] = [asRecord(saved), asRecord(wanted)];
    const keys = [...new Set([...Object.keys(before), ...Object.keys(now)])];
    return firstOf(
      keys.map((key) => () => differenceOf(field === '' ? key : `${field}.${key}`, before[key], now[key])),
    );
  }
  return JSON.stringify(saved) === JSON.stringify(wanted) ? undefined : { field, saved, wanted };
}

function listDifference(field: string, saved: readonly unknown[], wanted: readonly unknown[]): Difference | undefined {
  const end = Math.min(saved.length, wanted.length);
  const shared = saved.slice(0, end);
  const within = firstOf(shared.map((each, index) => () => differenceOf(`${field}[${index}]`, each, wanted[index])));
  if (within !== undefined || saved.length === wanted.length) return within;
  return { field: `${field}[${end}]`, saved: saved[end], wanted: wanted[end] };
}

function asList(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? value : [];
}

function asRecord(value: unknown): Readonly<Record<string, unknown>> {
  return isRecord(value) ? value : {};
}

function firstOf(looks: readonly (() => Difference | undefined)[]): Difference | undefined {
  for (const look of looks) {
    const difference = look();
    if (difference !== undefined) return difference;
  }
  return undefined;
}

function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
