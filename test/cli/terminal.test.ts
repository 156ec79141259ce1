// Standard input for the guest: raw mode and its end, terminals and other inputs.

import { EventEmitter } from 'node:events';
import { describe, expect, test } from '@jest/globals';
import type { KeyEvent } from '../../src/cli/escape-filter.js';
import { type InputStream, isInForeground, keysHelp, Terminal } from '../../src/cli/terminal.js';

class FakeInput extends EventEmitter implements InputStream {
  readonly isTTY: boolean;
  readonly calls: string[] = [];

  constructor(isTTY: boolean) {
    super();
    this.isTTY = isTTY;
  }
  setRawMode(raw: boolean): void {
    this.calls.push(raw ? 'raw' : 'cooked');
  }
  resume(): void {
    this.calls.push('resume');
  }
  pause(): void {
    this.calls.push('pause');
  }
  unref(): void {
    this.calls.push('unref');
  }
  type(text: string): void {
    this.emit('data', Buffer.from(text));
  }
}

function attach({ isTTY = true, foreground = true, interruptOnCtrlC = false, taken = () => Promise.resolve() } = {}) {
  const input = new FakeInput(isTTY);
  const events: KeyEvent[] = [];
  const lifecycle = new EventEmitter();
  const state = { foreground };
  const terminal = Terminal.attach(input, {
    interruptOnCtrlC,
    onEvent: (event) => {
      events.push(event);
      return taken();
    },
    inForeground: () => state.foreground,
    process: lifecycle,
  });
  const typed = () =>
    events.map((event) => (event.kind === 'bytes' ? Buffer.from(event.bytes).toString() : `<${event.kind}>`));
  return { input, terminal, lifecycle, state, typed };
}

describe('the terminal', () => {
  test('is raw while attached, and put back once by detaching', () => {
    const { input, terminal, lifecycle } = attach();
    terminal.detach();
    terminal.detach();
    lifecycle.emit('exit');
    expect(input.calls).toEqual(['raw', 'resume', 'cooked', 'pause', 'unref']);
    expect(input.listenerCount('data')).toBe(0);
  });

  test('is put back when the process exits without detaching', () => {
    const { input, lifecycle } = attach();
    lifecycle.emit('exit');
    expect(input.calls).toEqual(['raw', 'resume', 'cooked']);
  });

  test('its escape keys are taken out of what the guest gets', () => {
    const { input, typed } = attach({ interruptOnCtrlC: true });
    input.type('a\x01hb\x03\x01x');
    expect(typed()).toEqual(['a', '<help>', 'b', '<interrupt>', '<quit>']);
  });

  test('is raw again after the process was stopped and continued', () => {
    const { input, lifecycle } = attach();
    lifecycle.emit('SIGCONT');
    expect(input.calls).toEqual(['raw', 'resume', 'raw']);
  });

  test('is left alone by a background job until it comes to the foreground', () => {
    const { input, lifecycle, state, terminal } = attach({ foreground: false });
    expect(input.calls).toEqual([]);
    state.foreground = true;
    lifecycle.emit('SIGCONT');
    expect(input.calls).toEqual(['raw', 'resume']);
    state.foreground = false;
    terminal.detach();
    expect(input.calls).toEqual(['raw', 'resume', 'pause', 'unref']);
  });
});

describe('an input that is no terminal', () => {
  test('goes to the guest as it is, escape keys included', () => {
    const { input, typed, terminal } = attach({ isTTY: false, interruptOnCtrlC: true });
    input.type('a\x01x\x03');
    expect(typed()).toEqual(['a\x01x\x03']);
    terminal.detach();
    expect(input.calls).toEqual(['resume', 'pause', 'pause', 'unref']);
  });

  test('is read on only when the guest has taken what was typed', async () => {
    let take: () => void = () => undefined;
    const taken = (): Promise<void> => new Promise((resolve) => (take = resolve));
    const { input } = attach({ isTTY: false, taken });
    input.type('a lot');
    await Promise.resolve();
    expect(input.calls).toEqual(['resume', 'pause']);
    take();
    await new Promise(setImmediate);
    expect(input.calls).toEqual(['resume', 'pause', 'resume']);
  });

  test('may end or fail without any event', () => {
    const { input, typed } = attach({ isTTY: false });
    input.emit('error', new Error('EIO'));
    input.emit('end');
    expect(typed()).toEqual([]);
  });
});

test('the foreground is told by the process group, whatever the program is called', () => {
  expect(isInForeground('12 (a) b (c) S 1 12 12 34816 12 4194304 0')).toBe(true);
  expect(isInForeground('12 (node) S 1 12 12 34816 99 4194304 0')).toBe(false);
});

test('the keys are told as they are', () => {
  expect(keysHelp(true)).toContain('Ctrl-C or Ctrl-A x ends the VM');
  expect(keysHelp(false)).toMatch(/^Ctrl-A x ends the VM/);
});
