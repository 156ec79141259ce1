// Answers of the API as a person reads them.

import { formatBytes } from '../../platform/units.js';

/** Columns side by side; numbers to the right. */
export function table(rows: readonly (readonly (string | number)[])[]): string {
  const widths: number[] = [];
  for (const row of rows) {
    row.forEach((cell, column) => {
      widths[column] = Math.max(widths[column] ?? 0, String(cell).length);
    });
  }
  const lines = rows.map((row) =>
    row
      .map((cell, column) => {
        const text = String(cell);
        return typeof cell === 'number' ? text.padStart(widths[column] ?? 0) : text.padEnd(widths[column] ?? 0);
      })
      .join('  ')
      .trimEnd(),
  );
  return lines.map((line) => `${line}\n`).join('');
}

type Fields = Readonly<Record<string, unknown>>;

export function pingTable(answer: unknown): string {
  const { version, build_version: build, pid } = fieldsOf(answer);
  return table([
    ['version', show(build ?? version)],
    ['pid', show(pid)],
  ]);
}

export function infoTable(answer: unknown): string {
  const { state, config, memory_actual_size: actual } = fieldsOf(answer);
  const { cpus, memory, payload, ...rest } = fieldsOf(config);
  const size = fieldsOf(memory)['size'];
  const kernel = fieldsOf(payload)['kernel'];
  const rows: [string, string][] = [
    ['state', show(state)],
    ['vCPUs', show(fieldsOf(cpus)['boot_vcpus'])],
    ['memory', bytes(size) + (actual === size ? '' : ` (${bytes(actual)} without the balloon)`)],
    ['kernel', kernel === undefined ? 'built in' : show(kernel)],
  ];
  for (const [section, value] of Object.entries(rest)) {
    const devices = Array.isArray(value) ? (value as unknown[]) : [value];
    for (const device of devices) rows.push([section, show(device)]);
  }
  return table(rows);
}

export function countersTable(answer: unknown): string {
  const rows = Object.entries(fieldsOf(answer)).flatMap(([device, counters]) =>
    Object.entries(fieldsOf(counters)).map(([name, value]) => [device, name, Number(value)] as const),
  );
  return table(rows);
}

function bytes(value: unknown): string {
  return typeof value === 'number' ? formatBytes(value) : show(value);
}

/** `mode=Pty file=/dev/pts/3`. */
function show(value: unknown): string {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) {
    return Object.entries(value)
      .map(([key, inner]) => `${key}=${typeof inner === 'string' ? inner : JSON.stringify(inner)}`)
      .join(' ');
  }
  return typeof value === 'string' ? value : JSON.stringify(value ?? null);
}

function fieldsOf(value: unknown): Fields {
  return typeof value === 'object' && value !== null ? (value as Fields) : {};
}
