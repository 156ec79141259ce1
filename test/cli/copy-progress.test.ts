// The line that shows how far a copy is.

import { describe, expect, test } from '@jest/globals';
import { CopyProgressLine, type ProgressStream } from '../../src/cli/copy-progress.js';

const ERASE = '\r\u001b[K';
const MIB = 1024 * 1024;

class Screen implements ProgressStream {
  readonly isTTY: boolean;
  readonly columns = 60;
  readonly written: string[] = [];

  constructor(isTTY = true) {
    this.isTTY = isTTY;
  }

  write(text: string): void {
    this.written.push(text);
  }
}

describe('the progress of a copy', () => {
  test('is drawn in its place: percentage, bytes, rate', () => {
    const screen = new Screen();
    let now = 0;
    const line = new CopyProgressLine(screen, 'a -> guest:/a', 40 * MIB, () => now);
    now = 500;
    line.show({ bytes: 10 * MIB, entries: 0 });
    now = 1000;
    line.show({ bytes: 30 * MIB, entries: 0 });
    line.clear();
    expect(screen.written).toEqual([
      `${ERASE}a -> guest:/a: 25 %, 10 MiB of 40 MiB, 20 MiB/s`,
      `${ERASE}a -> guest:/a: 75 %, 30 MiB of 40 MiB, 30 MiB/s`,
      ERASE,
    ]);
  });

  test('has no percentage where nobody knows how much there will be, and that of a file whose size comes with it', () => {
    const screen = new Screen();
    let now = 0;
    const line = new CopyProgressLine(screen, 'x', undefined, () => now);
    now = 1000;
    line.show({ bytes: 512, entries: 0 });
    now = 2000;
    line.show({ bytes: 1024, entries: 0, total: 512 });
    expect(screen.written).toEqual([
      `${ERASE}x: 512 bytes, 512 bytes/s`,
      `${ERASE}x: 100 %, 1 KiB of 512 bytes, 512 bytes/s`,
    ]);
  });

  test('is not drawn for copies that are soon over, nor more often than the eye follows', () => {
    const screen = new Screen();
    let now = 0;
    const line = new CopyProgressLine(screen, 'x', 1, () => now);
    for (now = 0; now < 1000; now++) line.show({ bytes: 1, entries: 0 });
    expect(screen.written.length).toBe(7);
  });

  test('stays within the width of the terminal, and no name moves its cursor', () => {
    const screen = new Screen();
    let now = 0;
    const line = new CopyProgressLine(screen, `${'n'.repeat(80)}\u001b[2J`, 1, () => now);
    now = 1000;
    line.show({ bytes: 1, entries: 0 });
    expect(screen.written).toEqual([`${ERASE}${'n'.repeat(59)}`]);
    const named = new CopyProgressLine(screen, 'a\u001b[2J', 1, () => now);
    now = 2000;
    named.show({ bytes: 1, entries: 0 });
    expect(screen.written.at(-1)).toContain('a?[2J: 100 %');
  });

  test('is silent where nobody looks', () => {
    const screen = new Screen(false);
    let now = 0;
    const line = new CopyProgressLine(screen, 'x', 1, () => now);
    now = 1000;
    line.show({ bytes: 1, entries: 0 });
    line.clear();
    expect(screen.written).toEqual([]);
  });
});
