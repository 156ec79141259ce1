import { expect, test } from '@jest/globals';

import {
  createEventDeviceShared,
  EVENT_GENERATION_MASK,
  EVENT_POWER_BUTTON_MASK,
  EventDevice,
  raiseEvent,
} from '../../../src/devices/legacy/event-device.js';

test('nothing is pending at first', () => {
  expect(new EventDevice(createEventDeviceShared()).read()).toBe(0);
});

test('a press is pending when the interrupt comes, and reading takes it back', () => {
  const shared = createEventDeviceShared();
  const device = new EventDevice(shared);
  let seen: number | undefined;
  raiseEvent(shared, EVENT_POWER_BUTTON_MASK, () => {
    seen = device.read();
  });
  expect(seen).toBe(EVENT_POWER_BUTTON_MASK);
  expect(device.read()).toBe(0);
});

test('each press interrupts, also while one is pending; they are one event', () => {
  const shared = createEventDeviceShared();
  const device = new EventDevice(shared);
  let interrupts = 0;
  for (let press = 0; press < 3; press++) raiseEvent(shared, EVENT_POWER_BUTTON_MASK, () => interrupts++);
  expect(interrupts).toBe(3);
  expect(device.read()).toBe(EVENT_POWER_BUTTON_MASK);
  expect(device.read()).toBe(0);
});

test('all threads see one device, and writing does nothing', () => {
  const shared = createEventDeviceShared();
  raiseEvent(shared, EVENT_POWER_BUTTON_MASK, () => undefined);
  new EventDevice(shared).write();
  expect(new EventDevice(shared).read()).toBe(EVENT_POWER_BUTTON_MASK);
  expect(new EventDevice(shared).read()).toBe(0);
});

test('what happened is told by its bit, and events of different kinds do not hide one another', () => {
  const shared = createEventDeviceShared();
  raiseEvent(shared, EVENT_GENERATION_MASK, () => undefined);
  raiseEvent(shared, EVENT_POWER_BUTTON_MASK, () => undefined);
  expect(new EventDevice(shared).read()).toBe(EVENT_GENERATION_MASK | EVENT_POWER_BUTTON_MASK);
});
