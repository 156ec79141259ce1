import { describe, expect, test } from '@jest/globals';

import {
  createI8042Shared,
  I8042,
  I8042_COMMAND_PORT,
  I8042_DATA_PORT,
  STATUS_INPUT_FULL,
  STATUS_OUTPUT_FULL,
} from '../../../src/devices/legacy/i8042.js';

/** Linux's i8042_command(): the command, then its parameter, then the answer if there is one. */
function command(controller: I8042, value: number, parameter?: number): number | undefined {
  controller.write(I8042_COMMAND_PORT, value);
  if (parameter !== undefined) controller.write(I8042_DATA_PORT, parameter);
  if ((controller.read(I8042_COMMAND_PORT) & STATUS_OUTPUT_FULL) === 0) return undefined;
  return controller.read(I8042_DATA_PORT);
}

function create(): I8042 {
  return new I8042(createI8042Shared());
}

describe('i8042', () => {
  test('reboot=k: the input buffer is never full, and 0xfe resets', () => {
    const controller = create();
    expect(controller.read(I8042_COMMAND_PORT) & STATUS_INPUT_FULL).toBe(0);
    expect(controller.write(I8042_COMMAND_PORT, 0xfe)).toBe('reset');
  });

  test('only pulsing line 0 resets', () => {
    const controller = create();
    for (let value = 0; value < 256; value++) {
      const resets = value >= 0xf0 && (value & 1) === 0;
      expect(controller.write(I8042_COMMAND_PORT, value)).toBe(resets ? 'reset' : undefined);
    }
  });

  test('the output port resets by its bit 0', () => {
    const controller = create();
    controller.write(I8042_COMMAND_PORT, 0xd1);
    expect(controller.write(I8042_DATA_PORT, 0xdf)).toBeUndefined();
    controller.write(I8042_COMMAND_PORT, 0xd1);
    expect(controller.write(I8042_DATA_PORT, 0xde)).toBe('reset');
    expect(controller.write(I8042_DATA_PORT, 0xde)).toBeUndefined();
  });

  test('the driver of Linux finds a controller, and neither port answers late', () => {
    const controller = create();
    expect(controller.read(I8042_COMMAND_PORT) & STATUS_OUTPUT_FULL).toBe(0);
    expect(command(controller, 0xaa)).toBe(0x55);
    expect(command(controller, 0x20)).toBe(0x34);
    expect(command(controller, 0x60, 0x30)).toBeUndefined();
    expect(command(controller, 0x20)).toBe(0x30);
    expect(command(controller, 0xd3, 0x5a)).not.toBe(0x5a);
    expect(command(controller, 0xa9)).toBe(1);
    expect(command(controller, 0xab)).toBe(0);
    expect(command(controller, 0xd0)).toBe(0xff);
  });

  test('an answer is read once', () => {
    const controller = create();
    controller.write(I8042_COMMAND_PORT, 0xaa);
    expect(controller.read(I8042_DATA_PORT)).toBe(0x55);
    expect(controller.read(I8042_COMMAND_PORT) & STATUS_OUTPUT_FULL).toBe(0);
    expect(controller.read(I8042_DATA_PORT)).toBe(0);
  });

  test('bytes for a keyboard go nowhere', () => {
    const controller = create();
    expect(controller.write(I8042_DATA_PORT, 0xff)).toBeUndefined();
    expect(command(controller, 0xd4, 0xf2)).toBeUndefined();
  });

  test('two threads see the same controller', () => {
    const shared = createI8042Shared();
    new I8042(shared).write(I8042_COMMAND_PORT, 0xd1);
    expect(new I8042(shared).write(I8042_DATA_PORT, 0xfe)).toBe('reset');
  });
});
