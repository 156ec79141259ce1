import { expect, test } from '@jest/globals';

import { POWER_OFF_VALUE, readSleepControl, writeSleepControl } from '../../../src/devices/legacy/sleep-control.js';

test('of all bytes, 1 resets and those that enter S5 shut down', () => {
  expect(POWER_OFF_VALUE).toBe(0x34);
  for (let value = 0; value < 256; value++) {
    const entersS5 = (value & 0x3c) === 0x34;
    expect(writeSleepControl(value)).toBe(value === 1 ? 'reset' : entersS5 ? 'shutdown' : undefined);
  }
});

test('the status says that the machine did not wake up', () => {
  expect(readSleepControl()).toBe(0);
});
