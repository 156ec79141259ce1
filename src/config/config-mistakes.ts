// Several mistakes at once, so that whoever corrects a file need not run into one after the other.

import { ConfigError } from './config-error.js';

/** How many are listed. */
const SHOWN = 20;

/** A ConfigError about the first of several mistakes, whose message has them all. */
export class ConfigMistakes extends ConfigError {
  readonly mistakes: readonly ConfigError[];

  constructor(mistakes: readonly [ConfigError, ...ConfigError[]]) {
    const [{ option, key, value, code, problem, mend }] = mistakes;
    super({ option, key, value, label: option }, { code, problem, mend });
    this.mistakes = mistakes;
    const lines = mistakes.slice(0, SHOWN).map(({ message }) => `  ${message}`);
    const rest = mistakes.length > SHOWN ? [`  and ${mistakes.length - SHOWN} more`] : [];
    this.message = [`${mistakes.length} mistakes:`, ...lines, ...rest].join('\n');
  }
}

/** The error for all of these, each said once: itself where there is one. */
export function allMistakes(errors: readonly ConfigError[]): ConfigError | undefined {
  const single = errors.flatMap((error) => (error instanceof ConfigMistakes ? error.mistakes : [error]));
  const [first, ...others] = [...new Map(single.map((error) => [error.message, error])).values()];
  return others.length === 0 ? first : new ConfigMistakes([first, ...others]);
}

/** Gathers what is wrong with parts of a file. */
export class MistakeList {
  private readonly errors: ConfigError[] = [];

  /** What `look` gives; undefined when it throws a ConfigError, which is kept. */
  try<T>(look: () => T): T | undefined {
    try {
      return look();
    } catch (error) {
      this.add(error);
      return undefined;
    }
  }

  /** Throws what is no ConfigError. */
  add(error: unknown): void {
    if (!(error instanceof ConfigError)) throw error;
    this.errors.push(error);
  }

  /** Throws ConfigError when there were any. */
  throwIfAny(): void {
    const error = allMistakes(this.errors);
    if (error !== undefined) throw error;
  }
}
