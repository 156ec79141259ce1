import { expect, test } from '@jest/globals';
import fc from 'fast-check';
import { NativeBuffer } from '../../src/platform/native-buffer.js';
import { createSharedRing, RING_WORD, SharedRing } from '../../src/platform/shared-ring.js';

/** The two sides of one ring, as two threads have them. */
function ringPair(size: number): { producer: SharedRing; consumer: SharedRing; memory: SharedArrayBuffer } {
  const memory = createSharedRing(size);
  return { producer: new SharedRing(memory), consumer: new SharedRing(memory), memory };
}

function drainAll(ring: SharedRing): string {
  let text = '';
  ring.drain((bytes) => {
    text += Buffer.from(bytes).toString('latin1');
    return bytes.length;
  });
  return text;
}

test.each([0, 16, 31, 33, 1.5, -32, Number.NaN])('a ring of %d bytes is refused', (size) => {
  expect(() => createSharedRing(size)).toThrow(RangeError);
});

test('whichever way bytes go in and out, all come out once and in order, with indices that pass 2^31', () => {
  const word = fc.string({ minLength: 0, maxLength: 50, unit: 'binary-ascii' });
  const step = fc.oneof(
    fc.record({ put: word, native: fc.boolean() }),
    fc.record({ drain: fc.nat(60) }),
    fc.record({ takeTo: fc.nat(60) }),
    fc.record({ bytes: fc.nat(5) }),
  );
  const native = new NativeBuffer(64);
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
      const { producer, consumer, memory } = ringPair(32);
      const words = new Int32Array(memory);
      words[RING_WORD.HEAD] = words[RING_WORD.TAIL] = 0x7fff_fff0;
      let put = '';
      let taken = '';
      for (const current of steps) {
        if ('put' in current) {
          const { room } = producer;
          native.bytes.set(Buffer.from(current.put, 'latin1'));
          const count = current.native
            ? producer.putFrom(native.address, current.put.length)
            : producer.put(native.bytes.subarray(0, current.put.length));
          expect(count).toBe(Math.min(room, current.put.length));
          put += current.put.slice(0, count);
        } else if ('drain' in current) {
          let left = current.drain;
          consumer.drain((bytes) => {
            const count = Math.min(left, bytes.length);
            left -= count;
            taken += Buffer.from(bytes.subarray(0, count)).toString('latin1');
            return count;
          });
        } else if ('takeTo' in current) {
          const count = consumer.takeTo(native.address, current.takeTo);
          taken += Buffer.from(native.bytes.subarray(0, count)).toString('latin1');
        } else {
          for (let count = 0; count < current.bytes; count++) {
            const byte = consumer.takeByte();
            if (byte >= 0) taken += String.fromCharCode(byte);
          }
        }
        expect(producer.length).toBe(put.length - taken.length);
        expect(put.startsWith(taken)).toBe(true);
      }
      expect(taken + drainAll(consumer)).toBe(put);
      expect(consumer.takeByte()).toBe(-1);
    }),
  );
});

test('a consumer that sleeps is woken once, by the next byte, and not at all while it is awake', () => {
  const { producer, consumer } = ringPair(32);
  producer.put(Buffer.from('a'));
  expect(producer.consumerToWake()).toBe(false);
  expect(consumer.consumerWaits()).toBe(false);
  drainAll(consumer);
  expect(consumer.consumerWaits()).toBe(true);
  expect(producer.consumerToWake()).toBe(false);
  producer.put(Buffer.from('b'));
  expect(producer.consumerToWake()).toBe(true);
  expect(producer.consumerToWake()).toBe(false);
});

test('a producer that waits is woken once, when half of the ring is free', () => {
  const { producer, consumer } = ringPair(32);
  expect(producer.producerWaits()).toBe(false);
  producer.put(new Uint8Array(32));
  expect(producer.producerWaits()).toBe(true);
  for (let count = 0; count < 15; count++) consumer.takeByte();
  expect(consumer.producerToWake()).toBe(false);
  consumer.takeByte();
  expect(consumer.producerToWake()).toBe(true);
  expect(consumer.producerToWake()).toBe(false);
});

test('a consumer that claims more than it was offered is a bug, and named', () => {
  const { producer, consumer } = ringPair(32);
  producer.put(Buffer.from('abc'));
  expect(() => consumer.drain((bytes) => bytes.length + 1)).toThrow(/took 4 of 3 bytes/);
});

test('bytes that were lost are counted', () => {
  const { producer, consumer } = ringPair(32);
  producer.countLost(3);
  producer.countLost(4);
  expect(consumer.lost).toBe(7);
});
