import { describe, expect, test } from '@jest/globals';

import {
  createI8042Shared,
  I8042,
  I8042_COMMAND,
  I8042_DATA,
  type I8042Shared,
  STATUS_INPUT_FULL,
  STATUS_OUTPUT_FULL,
} from '../../../src/devices/legacy/i8042.js';

/** Linux's i8042_command(): the command, then its parameter, then the answer if there is one. */
function command(controller: I8042, value: number, parameter?: number): number | undefined {
  controller.write(I8042_COMMAND, value);
  if (parameter !== undefined) controller.write(I8042_DATA, parameter);
  if ((controller.read(I8042_COMMAND) & STATUS_OUTPUT_FULL) === 0) return undefined;
  return controller.read(I8042_DATA);
}

/** A controller that keeps what it asked for in `resets`. */
class CountingController extends I8042 {
  resets = 0;

  constructor(shared?: I8042Shared) {
    super(() => {
      this.resets++;
    }, shared);
  }
}

function create(): CountingController {
  return new CountingController();
}

describe('i8042', () => {
  test('reboot=k: the input buffer is never full, and 0xfe resets', () => {
    const controller = create();
    expect(controller.read(I8042_COMMAND) & STATUS_INPUT_FULL).toBe(0);
    controller.write(I8042_COMMAND, 0xfe);
    expect(controller.resets).toBe(1);
  });

  test('only pulsing line 0 resets', () => {
    const controller = create();
    for (let value = 0; value < 256; value++) {
      controller.resets = 0;
      controller.write(I8042_COMMAND, value);
      expect(controller.resets).toBe(value >= 0xf0 && (value & 1) === 0 ? 1 : 0);
    }
  });

  test('the output port resets by its bit 0', () => {
    const controller = create();
    controller.write(I8042_COMMAND, 0xd1);
    controller.write(I8042_DATA, 0xdf);
    controller.write(I8042_COMMAND, 0xd1);
    expect(controller.resets).toBe(0);
    controller.write(I8042_DATA, 0xde);
    expect(controller.resets).toBe(1);
    controller.write(I8042_DATA, 0xde);
    expect(controller.resets).toBe(1);
  });

  test('the driver of Linux finds a controller, and neither port answers late', () => {
    const controller = create();
    expect(controller.read(I8042_COMMAND) & STATUS_OUTPUT_FULL).toBe(0);
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
    controller.write(I8042_COMMAND, 0xaa);
    expect(controller.read(I8042_DATA)).toBe(0x55);
    expect(controller.read(I8042_COMMAND) & STATUS_OUTPUT_FULL).toBe(0);
    expect(controller.read(I8042_DATA)).toBe(0);
  });

  test('bytes for a keyboard go nowhere', () => {
    const controller = create();
    controller.write(I8042_DATA, 0xff);
    expect(controller.read(I8042_COMMAND) & STATUS_OUTPUT_FULL).toBe(0);
    expect(command(controller, 0xd4, 0xf2)).toBeUndefined();
  });

  test('two threads see the same controller', () => {
    const shared = createI8042Shared();
    const other = new CountingController(shared);
    new CountingController(shared).write(I8042_COMMAND, 0xd1);
    other.write(I8042_DATA, 0xfe);
    expect(other.resets).toBe(1);
  });

  test('the ports between the two are not there', () => {
    const controller = create();
    controller.write(1, 0xfe);
    expect([1, 2, 3].map((offset) => controller.read(offset))).toEqual([0xff, 0xff, 0xff]);
    expect(controller.resets).toBe(0);
  });
});
