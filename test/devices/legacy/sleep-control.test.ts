import { expect, test } from '@jest/globals';

import type { LegacyAction } from '../../../src/devices/legacy/action.js';
import { POWER_OFF_VALUE, SleepControl } from '../../../src/devices/legacy/sleep-control.js';

test('of all bytes, 1 resets and those that enter S5 shut down', () => {
  expect(POWER_OFF_VALUE).toBe(0x34);
  let asked: LegacyAction | undefined;
  const device = new SleepControl((action) => {
    asked = action;
  });
  for (let value = 0; value < 256; value++) {
    asked = undefined;
    device.write(0, value);
    const entersS5 = (value & 0x3c) === 0x34;
    expect(asked).toBe(value === 1 ? 'reset' : entersS5 ? 'shutdown' : undefined);
  }
});

test('the status says that the machine did not wake up', () => {
  expect(new SleepControl(() => undefined).read()).toBe(0);
});
