import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { ConnectionTable } from '../../src/vsock/connection-table.js';
import type { Connection } from '../../src/vsock/connection.js';

/** The table uses only the tuple of a connection. */
function connection(guestPort: number, peerPort: number, peerCid = 2, type = 1): Connection {
  return { guestPort, peerPort, peerCid, type } as unknown as Connection;
}

describe('the connection table', () => {
  test('finds by the whole tuple, and by nothing less', () => {
    const table = new ConnectionTable();
    const one = connection(1, 2, 2, 1);
    table.add(one);
    expect(table.find(1, 2, 2, 1)).toBe(one);
    expect(table.find(2, 1, 2, 1)).toBeUndefined();
    expect(table.find(1, 2, 3, 1)).toBeUndefined();
    expect(table.find(1, 2, 2, 2)).toBeUndefined();
    expect(table.find(1, 3, 2, 1)).toBeUndefined();
  });

  test('rule 13: removing one connection never removes another with the same tuple', () => {
    const table = new ConnectionTable();
    const old = connection(1, 2);
    const current = connection(1, 2);
    table.add(old);
    expect(table.remove(old)).toBe(true);
    table.add(current);
    expect(table.remove(old)).toBe(false);
    expect(table.find(1, 2, 2, 1)).toBe(current);
  });

  test('behaves as a map does, under any sequence, seed and collisions', () => {
    const port = fc.constantFrom(0, 1, 2, 3, 64, 128, 1024, 0x4000_0000, 0xffff_ffff);
    const step = fc.record({ guestPort: port, peerPort: port, remove: fc.boolean() });
    fc.assert(
      fc.property(fc.integer(), fc.array(step, { maxLength: 300 }), (seed, steps) => {
        const table = new ConnectionTable(seed);
        const model = new Map<string, Connection>();
        for (const { guestPort, peerPort, remove } of steps) {
          const key = `${guestPort},${peerPort}`;
          const known = model.get(key);
          expect(table.find(guestPort, peerPort, 2, 1)).toBe(known);
          if (remove && known !== undefined) {
            expect(table.remove(known)).toBe(true);
            model.delete(key);
          } else if (!remove && known === undefined) {
            const added = connection(guestPort, peerPort);
            table.add(added);
            model.set(key, added);
          }
          expect(table.size).toBe(model.size);
        }
        expect(new Set(table.all())).toEqual(new Set(model.values()));
        for (const [key, value] of model) {
          const [guestPort, peerPort] = key.split(',').map(Number);
          expect(table.find(guestPort, peerPort, 2, 1)).toBe(value);
        }
      }),
    );
  });

  test('65,536 connections with consecutive ports, half of them removed again', () => {
    const table = new ConnectionTable();
    const all = Array.from({ length: 65_536 }, (_, index) => connection(index, 1024));
    for (const one of all) table.add(one);
    for (let index = 0; index < all.length; index += 2) table.remove(all[index]);
    expect(table.size).toBe(32_768);
    const wrong = all.filter(
      (one, index) => table.find(one.guestPort, 1024, 2, 1) !== (index % 2 === 0 ? undefined : one),
    );
    expect(wrong).toEqual([]);
  });
});
