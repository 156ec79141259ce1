// The text of a step as it is run.

import type { Step } from './sessions.js';

/** The text with what the directive replaces; each replacement has to have something to replace. */
export function replaced({ text, directive }: Step): string {
  return directive.lists.replace.reduce((before, replacement) => {
    const [from, to, ...more] = replacement.split(' => ');
    if (!replacement.includes(' => ') || more.length > 0)
      throw new Error(`replace="${replacement}": write "OLD => NEW"`);
    if (!before.includes(from)) throw new Error(`replace="${replacement}": "${from}" is not in the block`);
    return before.replaceAll(from, to);
  }, text);
}

/** The commands of a block, one on each line that is not continued. */
export function commandsOf(text: string): string[] {
  const lines = text.replaceAll('\\\n', ' ').split('\n');
  return lines.map((line) => line.trim()).filter((line) => line !== '' && !line.startsWith('#'));
}
