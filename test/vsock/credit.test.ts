import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { PACKET_OVERHEAD, ReceiveCredit, SendCredit } from '../../src/vsock/credit.js';

const TWO_POW_32 = 0x1_0000_0000;

describe('credit for sending', () => {
  test('nothing before the guest has said how much it takes', () => {
    expect(new SendCredit().available()).toBe(0);
  });

  test('with nothing under way one packet as large as the buffer may go, however small the buffer is', () => {
    const credit = new SendCredit();
    credit.update(100, 0);
    expect(credit.available() - PACKET_OVERHEAD).toBe(100);
  });

  test('bytes under way count until the guest has taken them', () => {
    const credit = new SendCredit();
    credit.update(100_000, 0);
    credit.consume(4000, 1, 4000);
    expect(credit.available()).toBe(100_000 - 4000 - PACKET_OVERHEAD);
    credit.update(100_000, 4000);
    expect(credit.inFlight).toBe(0);
  });

  test('rule 6: packets under way count as well as bytes', () => {
    const credit = new SendCredit();
    credit.update(64 * 1024, 0);
    let packets = 0;
    while (credit.sendable) {
      credit.consume(100, 1, 100);
      packets++;
    }
    expect(packets).toBeLessThanOrEqual(64);
    expect(credit.limitedByPackets).toBe(true);
    credit.update(64 * 1024, 100 * packets);
    expect(credit.available()).toBeGreaterThan(60 * 1024);
  });

  test('rule 6: what is counted is never less than what the guest may hold', () => {
    const step = fc.oneof(
      fc.record({ send: fc.array(fc.integer({ min: 1, max: 4052 }), { minLength: 1, maxLength: 20 }) }),
      fc.record({ take: fc.integer({ min: 1, max: 30 }) }),
    );
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        const bufAlloc = 256 * 1024;
        const credit = new SendCredit();
        credit.update(bufAlloc, 0);
        const held: number[] = [];
        let taken = 0;
        for (const item of steps) {
          if ('send' in item) {
            for (const length of item.send) {
              if (credit.available() < length + PACKET_OVERHEAD) continue;
              credit.consume(length, 1, length);
              held.push(length);
            }
          } else {
            for (const length of held.splice(0, item.take)) taken += length;
            credit.update(bufAlloc, taken);
          }
          const cost = held.reduce((sum, length) => sum + length + PACKET_OVERHEAD, 0);
          expect(cost).toBeLessThanOrEqual(bufAlloc + PACKET_OVERHEAD);
          if (held.length > 0) expect(credit.available()).toBeLessThanOrEqual(bufAlloc - cost);
        }
      }),
    );
  });

  test('a steady stream of full packets is not held back by the count of packets', () => {
    const credit = new SendCredit();
    credit.update(256 * 1024, 0);
    let sent = 0;
    for (let round = 0; round < 100; round++) {
      let packets = 0;
      while (credit.available() >= 4052 + PACKET_OVERHEAD) {
        credit.consume(4052, 1, 4052);
        sent += 4052;
        packets++;
      }
      expect(packets).toBeGreaterThan(40);
      credit.update(256 * 1024, (sent - 2 * 4052) % TWO_POW_32);
    }
  });

  test('rule 8: fwd_cnt wraps at 32 bits', () => {
    const credit = new SendCredit();
    credit.update(0x7fff_ffff, 0);
    let sent = 0;
    for (let round = 0; round < 10; round++) {
      credit.consume(0x3fff_ffff, 1, 0x3fff_ffff);
      sent += 0x3fff_ffff;
      expect(credit.inFlight).toBe(0x3fff_ffff);
      credit.update(0x7fff_ffff, sent % TWO_POW_32);
      expect(credit.inFlight).toBe(0);
    }
  });

  test('a guest that claims to have taken more than it was sent gets nothing', () => {
    const credit = new SendCredit();
    credit.update(1000, 5000);
    expect(credit.available()).toBe(0);
    credit.update(1000, 0);
    expect(credit.available()).toBeGreaterThan(0);
  });

  test('a buffer of 0, and one of 4 GiB, are taken as they are meant', () => {
    const credit = new SendCredit();
    credit.update(0, 0);
    expect(credit.available()).toBe(0);
    credit.update(0xffff_ffff, 0);
    expect(credit.available()).toBeGreaterThan(0x7fff_0000);
  });

  test('a guest that shrinks its buffer below what is under way gets nothing more', () => {
    const credit = new SendCredit();
    credit.update(100_000, 0);
    credit.consume(50_000, 1, 50_000);
    credit.update(10_000, 0);
    expect(credit.available()).toBeLessThanOrEqual(0);
  });
});

describe('credit for receiving', () => {
  test('a guest may have as much under way as the buffer holds, and not a byte more', () => {
    const credit = new ReceiveCredit(1000);
    expect(credit.receive(600)).toBe(true);
    expect(credit.receive(401)).toBe(false);
    expect(credit.receive(400)).toBe(true);
    credit.forward(500);
    expect(credit.buffered).toBe(500);
    expect(credit.receive(500)).toBe(true);
  });

  test('lengths near 2^32 are refused', () => {
    expect(new ReceiveCredit(1000).receive(0xffff_ffff)).toBe(false);
  });

  test('rule 8: counts wrap at 32 bits', () => {
    const credit = new ReceiveCredit(0x4000_0000);
    for (let round = 0; round < 20; round++) {
      expect(credit.receive(0x3000_0000)).toBe(true);
      expect(credit.buffered).toBe(0x3000_0000);
      credit.forward(0x3000_0000);
      credit.tell();
    }
    expect(credit.fwdCnt >>> 0).toBe((20 * 0x3000_0000) % TWO_POW_32);
  });

  test('an update is due when half the window is used up and a good part can be given back', () => {
    const credit = new ReceiveCredit(1000);
    credit.receive(400);
    credit.forward(400);
    expect(credit.updateDue(1_000_000)).toBe(false);
    credit.receive(100);
    credit.forward(100);
    expect(credit.updateDue(1_000_000)).toBe(true);
    credit.tell();
    expect(credit.updateDue(1_000_000)).toBe(false);
  });

  test('rule 8: the guest’s own smaller buffer is the window', () => {
    const credit = new ReceiveCredit(262_144);
    credit.receive(2048);
    credit.forward(2048);
    expect(credit.updateDue(262_144)).toBe(false);
    expect(credit.updateDue(4096)).toBe(true);
  });

  test('a slow reader does not cause an update per byte', () => {
    const credit = new ReceiveCredit(1000);
    credit.receive(1000);
    let updates = 0;
    for (let byte = 0; byte < 1000; byte++) {
      credit.forward(1);
      if (credit.updateDue(1000)) {
        credit.tell();
        updates++;
      }
    }
    expect(updates).toBeGreaterThan(0);
    expect(updates).toBeLessThanOrEqual(4);
  });

  test('rule 8: a guest that waits for credit is always told in the end, whatever the sizes', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 5000 }),
        fc.integer({ min: 1, max: 5000 }),
        fc.array(fc.integer({ min: 1, max: 700 }), { minLength: 1, maxLength: 50 }),
        (bufAlloc, peerBufAlloc, forwards) => {
          const credit = new ReceiveCredit(bufAlloc);
          const window = Math.min(bufAlloc, peerBufAlloc);
          let sent = 0;
          let known = 0;
          let forwarded = 0;
          for (const step of forwards) {
            const room = window - (sent - known);
            credit.receive(room);
            sent += room;
            const amount = Math.min(step, sent - forwarded);
            credit.forward(amount);
            forwarded += amount;
            if (credit.updateDue(peerBufAlloc)) {
              credit.tell();
              known = forwarded;
            }
            // All passed on, and the guest out of credit without knowing it: that must not last.
            if (forwarded === sent) expect(window - (sent - known)).toBeGreaterThan(0);
          }
        },
      ),
    );
  });
});
