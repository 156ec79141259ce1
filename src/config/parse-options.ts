// From the command line's option texts to a checked configuration.

import { ConfigError } from './config-error.js';
import type { ConfigPart, OptionSpec } from './option-spec.js';
import { checkRules } from './rules/index.js';
import { byPath, type FieldNames } from './rules/rule.js';
import { markValid } from './valid-config.js';
import { DEFAULT_VM_CONFIG, defaultSerial, type VmConfig } from './vm-config.js';
import { VM_OPTIONS } from './vm-options.js';

/** Option name, without dashes, to the values that it was given with, in order. */
export type OptionTexts = ReadonlyMap<string, readonly string[]>;

/** Reads every VM option in `texts` (others are ignored), fills in the defaults and checks; throws ConfigError. */
export function parseVmOptions(texts: OptionTexts): VmConfig {
  let config: VmConfig = DEFAULT_VM_CONFIG;
  for (const spec of VM_OPTIONS) {
    const given = texts.get(spec.name) ?? [];
    refuseRepetition(spec, given);
    given.forEach((text, index) => {
      config = merge(config, spec.read(text, whichOf(index, given.length)));
    });
  }
  if (!texts.has('serial')) config = merge(config, { serial: defaultSerial(config.console) });
  checkRules(config, byOption(config));
  return markValid(structuredClone(config));
}

function refuseRepetition(spec: OptionSpec, given: readonly string[]): void {
  if (given.length < 2 || spec.repeatable) return;
  const option = `--${spec.name}`;
  throw new ConfigError(
    { option, value: given[1], label: option },
    { code: 'DUPLICATE', problem: `given ${given.length} times`, mend: 'Give it once.' },
  );
}

function merge(config: VmConfig, part: ConfigPart): VmConfig {
  const merged: Record<string, unknown> = { ...config };
  for (const [section, given] of Object.entries(part)) merged[section] = combine(merged[section], given);
  // Each part holds whole values of the fields that it names, so a complete configuration stays one.
  return merged as unknown as VmConfig;
}

/** Devices of a kind add up, fields of a section replace those before, and anything else is simply replaced. */
function combine(before: unknown, given: unknown): unknown {
  if (Array.isArray(given)) return [...((before as unknown[] | undefined) ?? []), ...(given as unknown[])];
  if (typeof given === 'object' && given !== null) return { ...(before as object | undefined), ...given };
  return given;
}

const ORDINALS = ['first', 'second', 'third', 'fourth', 'fifth', 'sixth', 'seventh', 'eighth', 'ninth', 'tenth'];

/** Which of several devices a message is about; nothing where there is one. */
function whichOf(index: number, count: number): string {
  return count < 2 ? '' : ` (${ORDINALS[index] ?? `number ${index + 1}`})`;
}

/** On the command line a field is known by the option and key that set it, and by which of several it was. */
function byOption(config: VmConfig): FieldNames {
  const labels = new Map(VM_OPTIONS.flatMap((spec) => Object.entries(spec.labels)));
  return (field) => {
    const label = labelOf(field.replaceAll(/\[[0-9]+\]/g, '[]'), labels);
    if (label === undefined) return byPath(field);
    const [option = label, key] = label.split(' ');
    return { option, key, label: `${label}${whichDevice(field, config)}` };
  };
}

/** The label of a field, or of the nearest one around it: a whole list may be one key. */
function labelOf(field: string, labels: ReadonlyMap<string, string>): string | undefined {
  for (let part = field; part !== ''; part = part.replace(/(^|\.|\[)[^.[]*$/, '')) {
    const label = labels.get(part) ?? optionOf(part, labels);
    if (label !== undefined) return label;
  }
  return undefined;
}

/** The option that makes a whole section: `disks` and `disks[]` are `--disk`. */
function optionOf(section: string, labels: ReadonlyMap<string, string>): string | undefined {
  if (!/^[^.[]+(\[\])?$/.test(section)) return undefined;
  const inside = [...labels].find(([field]) => field.startsWith(`${section}.`) || field.startsWith(`${section}[].`));
  return inside?.[1].split(' ')[0];
}

/** Which of the devices that one option makes `field` belongs to. */
function whichDevice(field: string, config: VmConfig): string {
  const match = /^([^.[]+)\[([0-9]+)\]/.exec(field);
  const devices = match === null ? undefined : config[match[1] as keyof VmConfig];
  return match !== null && Array.isArray(devices) ? whichOf(Number(match[2]), devices.length) : '';
}
