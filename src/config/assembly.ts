// Puts a configuration together from a file and options, which override it, and remembers where each field came from,
// so that a message names the option or the file that is to be changed.

import type { ConfigPart, OptionSpec } from './option-spec.js';
import { byPath, type FieldNames } from './rules/rule.js';
import { DEFAULT_VM_CONFIG, defaultSerial, type VmConfig } from './vm-config.js';
import { VM_OPTIONS } from './vm-options.js';

/** A configuration that options are applied to. */
export interface ConfigBase {
  readonly config: VmConfig;
  /** Whether it says where the serial port goes. */
  readonly hasSerial: boolean;
  /** The file that it is from, for messages. */
  readonly file: string;
  /**
   * Whether its devices are all there are, as those of a saved machine: the first option for one of a kind stands for the
   * first, and so on, unless it has the name of another.
   */
  readonly devicesFixed?: boolean;
}

/** Sections that an option sets as a whole: what goes with one mode of a console is wrong with another. */
const WHOLE_SECTIONS: ReadonlySet<string> = new Set(['serial', 'console', 'debug_console']);

/**
 * Lists of what is the host's alone, no device of the guest: options replace those of a saved machine, whose guest knows
 * nothing of them.
 */
const REPLACED_LISTS: ReadonlySet<string> = new Set(['publish', 'host_services']);

/** By which field an option changes an element of the file's list instead of adding one. */
const NAME_FIELDS: Readonly<Record<string, string>> = { host_services: 'name' };

type Fields = Readonly<Record<string, unknown>>;

export class Assembly {
  private readonly config: Record<string, unknown>;
  private readonly file: string | undefined;
  private readonly devicesFixed: boolean;
  private hasSerial: boolean;
  /** The fields that options have set, or sections or devices as a whole; and which of several options it was. */
  private readonly fromOptions = new Map<string, string>();

  constructor(base?: ConfigBase) {
    this.config = { ...(base?.config ?? DEFAULT_VM_CONFIG) };
    this.file = base?.file;
    this.devicesFixed = base?.devicesFixed ?? false;
    this.hasSerial = base?.hasSerial ?? false;
  }

  /** Adds what the option makes of `text`. `which` says which of several it is, for messages. */
  apply(spec: OptionSpec, text: string, which: string): void {
    const part: ConfigPart = spec.read(text, which);
    for (const [section, given] of Object.entries<unknown>(part)) {
      if (Array.isArray(given)) this.addDevices(section, given as Fields[], which);
      else if (typeof given === 'object' && given !== null) this.setFields(section, given as Fields, which);
      else this.set(section, given, section, which);
    }
    this.hasSerial ||= part.serial !== undefined;
  }

  /** The configuration as it is now. Each part holds whole values, so a complete configuration stays one. */
  finish(): VmConfig {
    const config = this.config as unknown as VmConfig;
    return structuredClone(this.hasSerial ? config : { ...config, serial: defaultSerial(config.console) });
  }

  /** Fields by the option that set them, or else by the file. Without a file they can only be options. */
  readonly names: FieldNames = (field) => {
    const set = [...this.fromOptions].find(([path]) => isWithin(field, path));
    if (set === undefined && this.file !== undefined) return inFile(this.file)(field);
    const label = labelOf(field);
    if (label === undefined) return byPath(field);
    const [option = label, key] = label.split(' ');
    return { option, key, label: `${label}${set?.[1] ?? ''}` };
  };

  private addDevices(section: string, devices: readonly Fields[], which: string): void {
    const isFirst = ![...this.fromOptions.keys()].some((path) => isWithin(path, section));
    const replaces = this.devicesFixed && isFirst && REPLACED_LISTS.has(section);
    if (devices.length === 0 || replaces) this.config[section] = [];
    for (const device of devices) this.addDevice(section, device, which);
  }

  /** Adds a device, or changes the one that has its name already. */
  private addDevice(section: string, device: Fields, which: string): void {
    const devices = (this.config[section] ?? []) as readonly Fields[];
    const name = NAME_FIELDS[section] ?? 'id';
    const named = device[name] === undefined ? -1 : devices.findIndex((each) => each[name] === device[name]);
    const meant =
      named < 0 && this.devicesFixed && !REPLACED_LISTS.has(section)
        ? this.nextUntouched(section, devices.length)
        : named;
    if (meant < 0 || this.fromOptions.has(`${section}[${meant}]`)) {
      this.set(section, [...devices, device], `${section}[${devices.length}]`, which);
      return;
    }
    this.config[section] = devices.map((each, index) => (index === meant ? { ...each, ...device } : each));
    for (const key of Object.keys(device)) this.fromOptions.set(`${section}[${meant}].${key}`, which);
  }

  /** The first device of `section` that no option has changed or added; -1 when there is none. */
  private nextUntouched(section: string, count: number): number {
    const touched = [...this.fromOptions.keys()];
    const indices = Array.from({ length: count }, (_, index) => index);
    return indices.find((index) => !touched.some((path) => isWithin(path, `${section}[${index}]`))) ?? -1;
  }

  private setFields(section: string, given: Fields, which: string): void {
    if (WHOLE_SECTIONS.has(section)) {
      this.set(section, given, section, which);
      return;
    }
    this.config[section] = { ...(this.config[section] as Fields | undefined), ...given };
    for (const key of Object.keys(given)) this.fromOptions.set(`${section}.${key}`, which);
  }

  private set(section: string, value: unknown, path: string, which: string): void {
    this.config[section] = value;
    this.fromOptions.set(path, which);
  }
}

/** Fields by their path in a file. */
export function inFile(file: string): FieldNames {
  return (field) => {
    const { option, key, label } = byPath(field);
    return { option, key, label: `${file}: ${label}` };
  };
}

function isWithin(field: string, path: string): boolean {
  return field === path || field.startsWith(`${path}.`) || field.startsWith(`${path}[`);
}

const LABELS = new Map(VM_OPTIONS.flatMap((spec) => Object.entries(spec.labels)));

/** The option and key that set a field, or the nearest one around it: a whole list may be one key. */
function labelOf(field: string): string | undefined {
  const pattern = field.replaceAll(/\[[0-9]+\]/g, '[]');
  for (let part = pattern; part !== ''; part = part.replace(/(^|\.|\[)[^.[]*$/, '')) {
    const label = LABELS.get(part) ?? optionOf(part);
    if (label !== undefined) return label;
  }
  return undefined;
}

/** The option that makes a whole section: `disks` and `disks[]` are `--disk`. */
function optionOf(section: string): string | undefined {
  if (!/^[^.[]+(\[\])?$/.test(section)) return undefined;
  const inside = [...LABELS].find(([field]) => field.startsWith(`${section}.`) || field.startsWith(`${section}[].`));
  return inside?.[1].split(' ')[0];
}
