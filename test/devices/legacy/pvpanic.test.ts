import { expect, test } from '@jest/globals';
import { PvPanic } from '../../../src/devices/legacy/pvpanic.js';

test('reading gives the events that the host understands; each that is written is reported, others are not', () => {
  const events: string[] = [];
  const device = new PvPanic((event) => events.push(event));
  expect(device.read()).toBe(3);
  device.write(0, 1);
  device.write(0, 2);
  device.write(0, 0xfc);
  device.write(0, 0);
  device.write(0, 0xff);
  expect(events).toEqual(['panicked', 'crash-loaded', 'panicked', 'crash-loaded']);
});
