// How one command-line option is described, once, for parsing, error messages and help. The descriptions themselves are
// in options/; adding an option there is all it takes. Options with keys are made by keyed-option.ts.

import { ConfigError, showValue } from './config-error.js';
import { GrammarError, quoted } from './option-grammar.js';
import { ValueError, type ValueKind } from './values.js';
import type { VmConfig } from './vm-config.js';

/** What one option contributes to the configuration: fields of sections, devices, or a whole value. */
export type ConfigPart = {
  readonly [Section in keyof VmConfig]?: VmConfig[Section] extends readonly unknown[] | undefined
    ? VmConfig[Section]
    : Partial<VmConfig[Section]>;
};

/** A line of help about a key. */
export interface KeyHelp {
  readonly name: string;
  readonly usage: string;
  readonly help: string;
}

/** One option as the parser and help see it. */
export interface OptionSpec {
  /** Without dashes. */
  readonly name: string;
  /** What follows the name: `PATH`, `cid=N,socket=PATH`; nothing for a flag. */
  readonly usage: string;
  readonly help: string;
  readonly keys: readonly KeyHelp[];
  /** The value that holds when the option is not given, in the option's own grammar. */
  readonly defaultText: string | undefined;
  /** Whether it takes a value. A flag does not; it is read from empty text. */
  readonly takesValue: boolean;
  /** Whether it makes one device of several: it may be given again, and take several values at once. */
  readonly repeatable: boolean;
  /** How messages name the configuration fields that this option sets: `vsock.cid` is `--vsock cid`. */
  readonly labels: Readonly<Record<string, string>>;
  /** Cloud Hypervisor's keys that do not exist here, each with the reason and what to do instead. */
  readonly notSupported: Readonly<Record<string, string>>;
  /**
   * Reads the option's value; throws ConfigError. `which` follows the option in messages where there are several:
   * ` (second)`.
   */
  readonly read: (text: string, which?: string) => ConfigPart;
}

export interface Description {
  readonly name: string;
  readonly help: string;
  readonly defaultText?: string;
  readonly repeatable?: boolean;
}

/** An option whose whole value is one value: `--kernel PATH`. The shell's quoting is all the quoting it needs. */
export function plainOption<T>(
  description: Description & {
    readonly kind: ValueKind<T>;
    readonly field: string;
    readonly into: (value: T) => ConfigPart;
  },
): OptionSpec {
  const option = `--${description.name}`;
  return {
    ...common(description),
    usage: description.kind.metavar,
    labels: { [description.field]: option },
    read: (text) => {
      try {
        // The text is taken as it stands, but value kinds expect the grammar's quoting.
        return description.into(description.kind.parse(quoted(text)));
      } catch (error) {
        throw located(error, { option, value: text, label: option });
      }
    },
  };
}

/** An option that is there or not: `--watchdog`. */
export function flagOption(
  description: Pick<Description, 'name' | 'help'> & { readonly field: string; readonly into: ConfigPart },
): OptionSpec {
  return {
    ...common(description),
    takesValue: false,
    labels: { [description.field]: `--${description.name}` },
    read: () => description.into,
  };
}

/** What options of all forms have, as it is for one that is not otherwise described. */
export function common(
  description: Description,
): Pick<OptionSpec, 'name' | 'usage' | 'help' | 'keys' | 'defaultText' | 'takesValue' | 'repeatable' | 'notSupported'> {
  const { name, help, defaultText, repeatable = false } = description;
  return { name, usage: '', help, keys: [], defaultText, takesValue: true, repeatable, notSupported: {} };
}

/** Where a value was read. */
export interface Place {
  readonly option: string;
  readonly key?: string;
  readonly value: string;
  readonly label: string;
}

/** An error of the grammar or of a value, with the place where it happened. */
export function located(error: unknown, place: Place): unknown {
  if (error instanceof ValueError) return new ConfigError(place, error.complaint);
  if (error instanceof GrammarError) {
    const problem = `${error.problem} in ${showValue(place.value)}`;
    return new ConfigError(place, { code: 'SYNTAX', problem, mend: error.mend });
  }
  return error;
}
