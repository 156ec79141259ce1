import { describe, expect, jest, test } from '@jest/globals';
import fc from 'fast-check';

import { SerialHost } from '../../../src/devices/legacy/serial-host.js';
import { createSerialShared, WORD, type SerialShared } from '../../../src/devices/legacy/serial-shared.js';
import { SerialPort } from '../../../src/devices/legacy/serial.js';
import { RING_WORD } from '../../../src/platform/shared-ring.js';

// Offsets and bits as Linux's 8250 driver names them (include/uapi/linux/serial_reg.h).
const UART_RX = 0;
const UART_TX = 0;
const UART_DLL = 0;
const UART_DLM = 1;
const UART_IER = 1;
const UART_IIR = 2;
const UART_FCR = 2;
const UART_LCR = 3;
const UART_MCR = 4;
const UART_LSR = 5;
const UART_MSR = 6;
const UART_SCR = 7;
const IER_RDI = 1;
const IER_THRI = 2;
const IER_RLSI = 4;
const IIR_NO_INT = 1;
const IIR_THRI = 2;
const IIR_RDI = 4;
const IIR_RLSI = 6;
const LSR_DR = 1;
const LSR_OE = 2;
const LSR_IDLE = 0x60;
const MCR_LOOP = 0x10;
const LCR_DLAB = 0x80;

/** A port, its host end, and counters of what they asked for. */
class Fixture {
  edges = 0;
  wakes = 0;
  readonly shared: SerialShared;
  readonly port: SerialPort;
  readonly host: SerialHost;
  /** A second vCPU's view of the same port. */
  readonly otherPort: SerialPort;

  constructor(txRingSize = 64, rxRingSize = 32) {
    const shared = createSerialShared({ txRingSize, rxRingSize });
    this.shared = shared;
    const raise = (): void => {
      this.edges++;
    };
    const wake = (): void => {
      this.wakes++;
    };
    this.port = new SerialPort(shared, raise, wake);
    this.otherPort = new SerialPort(shared, raise, wake);
    this.host = new SerialHost(shared, raise);
  }

  out(text: string): void {
    for (const byte of Buffer.from(text)) this.port.write(UART_TX, byte);
  }

  drain(most = Infinity): string {
    const taken: Buffer[] = [];
    let left = most;
    this.host.drain((bytes) => {
      const count = Math.min(bytes.length, left);
      taken.push(Buffer.from(bytes.subarray(0, count)));
      left -= count;
      return count;
    });
    return Buffer.concat(taken).toString('latin1');
  }

  push(text: string): number {
    return this.host.push(Buffer.from(text));
  }

  /** Edges since the last call. */
  newEdges(): number {
    const { edges } = this;
    this.edges = 0;
    return edges;
  }

  lsr(): number {
    return this.port.read(UART_LSR);
  }

  iir(): number {
    return this.port.read(UART_IIR);
  }
}

describe('as the 8250 driver of Linux finds out what it has', () => {
  test('autoconfig: the enable register holds four bits', () => {
    const { port } = new Fixture();
    port.write(UART_IER, 0);
    expect(port.read(UART_IER)).toBe(0);
    port.write(UART_IER, 0xff);
    expect(port.read(UART_IER)).toBe(0x0f);
    port.write(UART_IER, 0);
  });

  test('autoconfig: loopback shows the modem outputs as inputs', () => {
    const { port } = new Fixture();
    port.write(UART_MCR, MCR_LOOP | 0x0a);
    expect(port.read(UART_MSR) & 0xf0).toBe(0x90);
    port.write(UART_MCR, MCR_LOOP | 0x05);
    expect(port.read(UART_MSR)).toBe(0x60);
    port.write(UART_MCR, 0);
    expect(port.read(UART_MSR)).toBe(0xb0);
  });

  test('autoconfig: a 16550A says so by the two top bits of IIR, and has no 64-byte FIFO', () => {
    const { port } = new Fixture();
    expect(port.read(UART_IIR) >> 6).toBe(0);
    port.write(UART_FCR, 0x01);
    expect(port.read(UART_IIR)).toBe(0xc1);
    port.write(UART_FCR, 0x21);
    expect(port.read(UART_IIR) >> 5).toBe(6);
    port.write(UART_FCR, 0);
    expect(port.read(UART_IIR)).toBe(0x01);
  });

  test('size_fifo: of 256 looped bytes 16 arrive', () => {
    const fixture = new Fixture();
    const { port } = fixture;
    port.write(UART_FCR, 0x07);
    port.write(UART_MCR, MCR_LOOP);
    for (let count = 0; count < 256; count++) port.write(UART_TX, count);
    expect(fixture.lsr()).toBe(LSR_DR | LSR_OE | LSR_IDLE);
    const received: number[] = [];
    while ((fixture.lsr() & LSR_DR) !== 0) received.push(port.read(UART_RX));
    expect(received).toEqual(Array.from({ length: 16 }, (_, index) => index));
    expect(fixture.drain()).toBe('');
  });

  test('without FIFOs one looped byte arrives', () => {
    const fixture = new Fixture();
    fixture.port.write(UART_MCR, MCR_LOOP);
    fixture.out('ab');
    expect(fixture.lsr() & LSR_OE).toBe(LSR_OE);
    expect(fixture.port.read(UART_RX)).toBe(0x61);
    expect(fixture.lsr()).toBe(LSR_IDLE);
    expect(fixture.port.read(UART_RX)).toBe(0);
  });

  test('startup: enabling the transmit interrupt on an idle transmitter asserts it, every time', () => {
    const fixture = new Fixture();
    const { port } = fixture;
    port.write(UART_IER, IER_THRI);
    expect(fixture.iir()).toBe(IIR_THRI);
    port.write(UART_IER, 0);
    port.write(UART_IER, IER_THRI);
    expect(fixture.iir()).toBe(IIR_THRI);
    port.write(UART_IER, 0);
    expect(fixture.newEdges()).toBe(2);
  });

  test('divisor, scratch and line control are kept', () => {
    const { port } = new Fixture();
    port.write(UART_LCR, LCR_DLAB | 3);
    port.write(UART_DLL, 0x0c);
    port.write(UART_DLM, 0x34);
    expect([port.read(UART_DLL), port.read(UART_DLM), port.read(UART_LCR)]).toEqual([0x0c, 0x34, 0x83]);
    port.write(UART_LCR, 3);
    port.write(UART_SCR, 0x5a);
    expect([port.read(UART_IER), port.read(UART_SCR), port.read(UART_LCR)]).toEqual([0, 0x5a, 3]);
    expect(port.read(8)).toBe(0xff);
  });

  test('writes to the status registers change nothing', () => {
    const { port } = new Fixture();
    port.write(UART_LSR, 0xff);
    port.write(UART_MSR, 0xff);
    expect([port.read(UART_LSR), port.read(UART_MSR)]).toEqual([LSR_IDLE, 0xb0]);
  });
});

describe('transmitting', () => {
  test('bytes leave in order, whichever vCPU wrote them', () => {
    const fixture = new Fixture();
    fixture.out('hel');
    fixture.otherPort.write(UART_TX, 0x6c);
    fixture.out('o');
    expect(fixture.host.pending).toBe(5);
    expect(fixture.drain()).toBe('hello');
    expect(fixture.drain()).toBe('');
  });

  test('a string write is as many bytes at once, across the wrap', () => {
    const fixture = new Fixture(32);
    fixture.out('x'.repeat(12));
    fixture.drain();
    fixture.port.writeString(Buffer.from('0123456789abcdefghijklmnopqrst'));
    expect(fixture.drain()).toBe('0123456789abcdefghijklmnopqrst');
    fixture.port.writeString(new Uint8Array(0));
    expect(fixture.host.pending).toBe(0);
  });

  test('a string write under DLAB goes to the divisor, under loopback to the receiver', () => {
    const fixture = new Fixture();
    fixture.port.write(UART_LCR, LCR_DLAB);
    fixture.port.writeString(Buffer.from([1, 2, 3]));
    expect(fixture.port.read(UART_DLL)).toBe(3);
    fixture.port.write(UART_LCR, 0);
    fixture.port.write(UART_FCR, 1);
    fixture.port.write(UART_MCR, MCR_LOOP);
    fixture.port.writeString(Buffer.from('ab'));
    expect([fixture.port.read(UART_RX), fixture.port.read(UART_RX)]).toEqual([0x61, 0x62]);
    expect(fixture.host.pending).toBe(0);
  });

  test('THRE is withdrawn while there is no room for a whole FIFO', () => {
    const fixture = new Fixture(64);
    fixture.out('x'.repeat(48));
    expect(fixture.lsr()).toBe(LSR_IDLE);
    fixture.out('y');
    expect(fixture.lsr()).toBe(0);
    fixture.drain(1);
    expect(fixture.lsr()).toBe(LSR_IDLE);
  });

  test('a driver that asks before every 16 bytes loses nothing', () => {
    const fixture = new Fixture(32);
    let sent = '';
    let received = '';
    for (let turn = 0; turn < 100; turn++) {
      if (fixture.lsr() === LSR_IDLE) {
        const chunk = String.fromCharCode(0x40 + (turn % 32)).repeat(16);
        fixture.out(chunk);
        sent += chunk;
      } else {
        received += fixture.drain(7);
      }
    }
    received += fixture.drain();
    expect(received).toBe(sent);
    expect(fixture.host.lost).toBe(0);
  });

  test('bytes written into a full ring are counted, and the earlier ones are kept', () => {
    const fixture = new Fixture(32);
    fixture.out('a'.repeat(33));
    fixture.port.writeString(Buffer.from('bbb'));
    expect(fixture.host.lost).toBe(4);
    expect(fixture.drain()).toBe('a'.repeat(32));
  });

  test('a consumer that lies about what it took is told', () => {
    const fixture = new Fixture();
    fixture.out('ab');
    for (const taken of [3, -1, 0.5]) expect(() => fixture.host.drain(() => taken)).toThrow(RangeError);
    expect(fixture.drain()).toBe('ab');
  });

  test('drain says whether it emptied the ring', () => {
    const fixture = new Fixture();
    fixture.out('abc');
    expect(fixture.host.drain(() => 1)).toBe(false);
    expect(fixture.host.drain((bytes) => bytes.length)).toBe(true);
  });
});

describe('waking the consumer', () => {
  test('a byte wakes it once after it armed, and not while it is busy', () => {
    const fixture = new Fixture();
    fixture.out('a');
    expect(fixture.wakes).toBe(0);
    fixture.drain();
    expect(fixture.host.arm()).toBe(true);
    fixture.lsr();
    expect(fixture.wakes).toBe(0);
    fixture.out('bcd');
    expect(fixture.wakes).toBe(1);
    expect(fixture.drain()).toBe('bcd');
  });

  test('it must not sleep on bytes that came before it armed', () => {
    const fixture = new Fixture();
    fixture.out('a');
    expect(fixture.host.arm()).toBe(false);
    fixture.out('b');
    expect(fixture.wakes).toBe(0);
  });

  test('input that was refused is announced when half of the ring is free', () => {
    const fixture = new Fixture(64, 32);
    expect(fixture.push('0123456789'.repeat(4))).toBe(32);
    expect(fixture.push('more')).toBe(0);
    for (let count = 0; count < 15; count++) fixture.port.read(UART_RX);
    expect(fixture.wakes).toBe(0);
    fixture.port.read(UART_RX);
    expect(fixture.wakes).toBe(1);
    fixture.port.read(UART_RX);
    expect(fixture.wakes).toBe(1);
    expect(fixture.push('more')).toBe(4);
  });
});

describe('receiving', () => {
  test('bytes arrive in order, across the wrap of the ring', () => {
    const fixture = new Fixture(64, 32);
    let received = '';
    for (let turn = 0; turn < 10; turn++) {
      expect(fixture.push('0123456789')).toBe(10);
      while ((fixture.lsr() & LSR_DR) !== 0) received += String.fromCharCode(fixture.port.read(UART_RX));
    }
    expect(received).toBe('0123456789'.repeat(10));
    expect(fixture.port.read(UART_RX)).toBe(0);
  });

  test('loopback disconnects the line, and input waits behind it', () => {
    const fixture = new Fixture();
    fixture.push('a');
    fixture.port.write(UART_MCR, MCR_LOOP);
    expect(fixture.lsr() & LSR_DR).toBe(0);
    fixture.port.write(UART_MCR, 0);
    expect(fixture.port.read(UART_RX)).toBe(0x61);
  });

  test('resetting the receive FIFO drops looped bytes, not what is still on the line', () => {
    const fixture = new Fixture();
    fixture.push('a');
    fixture.port.write(UART_FCR, 0x01);
    fixture.port.write(UART_MCR, MCR_LOOP);
    fixture.out('b');
    fixture.port.write(UART_FCR, 0x03);
    expect(fixture.lsr() & LSR_DR).toBe(0);
    fixture.port.write(UART_MCR, 0);
    expect(fixture.port.read(UART_RX)).toBe(0x61);
  });
});

describe('interrupts', () => {
  test('none without its enable bit', () => {
    const fixture = new Fixture();
    fixture.out('a');
    fixture.push('b');
    expect(fixture.iir()).toBe(IIR_NO_INT);
    expect(fixture.newEdges()).toBe(0);
  });

  test('received data: one edge for a burst, over when the last byte is read', () => {
    const fixture = new Fixture();
    fixture.port.write(UART_IER, IER_RDI);
    fixture.push('ab');
    fixture.push('c');
    expect(fixture.newEdges()).toBe(1);
    for (const byte of [0x61, 0x62, 0x63]) {
      expect(fixture.iir()).toBe(IIR_RDI);
      expect(fixture.port.read(UART_RX)).toBe(byte);
    }
    expect(fixture.iir()).toBe(IIR_NO_INT);
    expect(fixture.newEdges()).toBe(0);
    fixture.push('d');
    expect(fixture.newEdges()).toBe(1);
  });

  test('enabling a source that already waits makes an edge', () => {
    const fixture = new Fixture();
    fixture.push('a');
    fixture.port.write(UART_IER, IER_RDI);
    expect(fixture.newEdges()).toBe(1);
    fixture.port.write(UART_IER, 0);
    fixture.port.write(UART_IER, IER_RDI);
    expect(fixture.newEdges()).toBe(1);
  });

  test('transmitter empty: reading IIR acknowledges it, writing THR asserts it again', () => {
    const fixture = new Fixture();
    fixture.port.write(UART_IER, IER_THRI);
    expect(fixture.newEdges()).toBe(1);
    expect(fixture.iir()).toBe(IIR_THRI);
    expect(fixture.iir()).toBe(IIR_NO_INT);
    fixture.out('a');
    expect(fixture.newEdges()).toBe(1);
    expect(fixture.iir()).toBe(IIR_THRI);
    // Writing it again although it is set is no event.
    fixture.port.write(UART_IER, IER_THRI);
    expect(fixture.iir()).toBe(IIR_NO_INT);
  });

  test('a driver that never reads IIR gets an edge for each byte it writes', () => {
    const fixture = new Fixture();
    fixture.port.write(UART_IER, IER_THRI);
    fixture.newEdges();
    for (let count = 0; count < 3; count++) {
      fixture.out('a');
      expect(fixture.newEdges()).toBe(1);
    }
  });

  test('received data comes before transmitter empty, and reading its IIR does not acknowledge the other', () => {
    const fixture = new Fixture();
    fixture.port.write(UART_IER, IER_RDI | IER_THRI);
    fixture.push('a');
    expect(fixture.newEdges()).toBe(1);
    expect(fixture.iir()).toBe(IIR_RDI);
    expect(fixture.iir()).toBe(IIR_RDI);
    fixture.port.read(UART_RX);
    // The line never fell: without an edge of its own the second source would wait for ever.
    expect(fixture.newEdges()).toBe(1);
    expect(fixture.iir()).toBe(IIR_THRI);
    expect(fixture.iir()).toBe(IIR_NO_INT);
  });

  test('acknowledging transmitter empty while a byte is waiting makes an edge for the byte', () => {
    const fixture = new Fixture();
    fixture.port.write(UART_IER, IER_THRI);
    expect(fixture.newEdges()).toBe(1);
    fixture.push('a');
    fixture.port.write(UART_IER, IER_RDI | IER_THRI);
    expect(fixture.newEdges()).toBe(0);
    fixture.out('b');
    expect(fixture.newEdges()).toBe(1);
    expect(fixture.iir()).toBe(IIR_RDI);
  });

  test('a line error comes first, and reading LSR ends it', () => {
    const fixture = new Fixture();
    fixture.port.write(UART_MCR, MCR_LOOP);
    fixture.port.write(UART_IER, IER_RLSI | IER_RDI);
    fixture.out('ab');
    expect(fixture.iir()).toBe(IIR_RLSI);
    fixture.newEdges();
    expect(fixture.lsr() & LSR_OE).toBe(LSR_OE);
    expect(fixture.newEdges()).toBe(1);
    expect(fixture.iir()).toBe(IIR_RDI);
  });

  test('a full ring holds the transmit interrupt back until it is drained', () => {
    const fixture = new Fixture(32);
    fixture.port.write(UART_IER, IER_THRI);
    fixture.out('x'.repeat(32));
    fixture.newEdges();
    expect(fixture.iir()).toBe(IIR_NO_INT);
    fixture.drain(15);
    expect(fixture.iir()).toBe(IIR_NO_INT);
    expect(fixture.newEdges()).toBe(0);
    fixture.drain(1);
    expect(fixture.newEdges()).toBe(1);
    expect(fixture.iir()).toBe(IIR_THRI);
    fixture.drain();
    expect(fixture.newEdges()).toBe(0);
  });

  test('enabling the transmit interrupt on a full ring is answered when there is room', () => {
    const fixture = new Fixture(32);
    fixture.out('x'.repeat(32));
    fixture.port.write(UART_IER, IER_THRI);
    expect(fixture.iir()).toBe(IIR_NO_INT);
    expect(fixture.newEdges()).toBe(0);
    fixture.drain();
    expect(fixture.newEdges()).toBe(1);
  });

  test('leaving loopback with a full ring takes THRE away again', () => {
    const fixture = new Fixture(32);
    fixture.out('x'.repeat(32));
    fixture.port.write(UART_MCR, MCR_LOOP);
    expect(fixture.lsr()).toBe(LSR_IDLE);
    fixture.port.write(UART_MCR, 0);
    expect(fixture.lsr()).toBe(0);
    fixture.port.write(UART_IER, IER_THRI);
    expect(fixture.iir()).toBe(IIR_NO_INT);
    fixture.drain();
    expect(fixture.iir()).toBe(IIR_THRI);
  });
});

/** Runs `meanwhile` as another thread would, just before the store of 1 into word `index` of `memory` becomes visible. */
function justBeforeStore(memory: SharedArrayBuffer, index: number, meanwhile: () => void, body: () => void): void {
  const original = Atomics.store.bind(Atomics);
  let done = false;
  const spy = jest.spyOn(Atomics, 'store').mockImplementation(((words: Int32Array, at: number, to: number) => {
    if (!done && words.buffer === memory && at === index && to === 1) {
      done = true;
      meanwhile();
    }
    return original(words, at, to);
  }) as typeof Atomics.store);
  try {
    body();
  } finally {
    spy.mockRestore();
  }
  expect(done).toBe(true);
}

describe('what the other side does between a look and a flag is not missed', () => {
  test('the host drains while the guest is about to say that it stalls', () => {
    const fixture = new Fixture(32);
    fixture.port.write(UART_IER, IER_THRI);
    // The next byte is the one that takes THRE away. (The hook runs under the device lock: it must not be stalled yet.)
    fixture.out('x'.repeat(16));
    const drain = (): void => {
      fixture.drain();
    };
    justBeforeStore(fixture.shared.words, WORD.TX_STALLED, drain, () => {
      fixture.newEdges();
      fixture.out('y');
    });
    expect(fixture.newEdges()).toBe(1);
    expect(fixture.iir()).toBe(IIR_THRI);
  });

  test('the guest reads while the host is about to say that its input does not fit', () => {
    const fixture = new Fixture(64, 32);
    fixture.push('x'.repeat(32));
    const read = (): void => {
      for (let count = 0; count < 32; count++) fixture.port.read(UART_RX);
    };
    justBeforeStore(fixture.shared.rx, RING_WORD.PRODUCER_WAITS, read, () => {
      expect(fixture.push('more')).toBe(4);
    });
  });

  test('the guest writes while the consumer is about to arm', () => {
    const fixture = new Fixture();
    const write = (): void => {
      fixture.out('a');
    };
    justBeforeStore(fixture.shared.tx, RING_WORD.CONSUMER_WAITS, write, () => {
      expect(fixture.host.arm()).toBe(false);
    });
  });
});

describe('any interleaving', () => {
  type Step =
    { out: string } | { text: string } | { drain: number } | { push: string } | { read: number } | { arm: true };
  const word = fc.string({ minLength: 1, maxLength: 40, unit: 'grapheme-ascii' });
  const step: fc.Arbitrary<Step> = fc.oneof(
    fc.record({ out: word }),
    fc.record({ text: word }),
    fc.record({ drain: fc.nat(50) }),
    fc.record({ push: word }),
    fc.record({ read: fc.nat(40) }),
    fc.record({ arm: fc.constant(true as const) }),
  );

  test('bytes out are bytes in, in order, minus exactly those counted as lost', () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        const fixture = new Fixture(64, 32);
        let sent = '';
        let drained = '';
        let pushed = '';
        let read = '';
        let lost = 0;
        const room = (): number => 64 - (sent.length - drained.length);
        const send = (text: string): void => {
          const kept = text.slice(0, room());
          sent += kept;
          lost += text.length - kept.length;
        };
        for (const current of steps) {
          if ('out' in current) {
            fixture.out(current.out);
            send(current.out);
          } else if ('text' in current) {
            fixture.port.writeString(Buffer.from(current.text));
            send(current.text);
          } else if ('drain' in current) {
            drained += fixture.drain(current.drain);
          } else if ('push' in current) {
            pushed += current.push.slice(0, fixture.push(current.push));
          } else if ('read' in current) {
            for (let count = 0; count < current.read && (fixture.lsr() & LSR_DR) !== 0; count++) {
              read += String.fromCharCode(fixture.port.read(UART_RX));
            }
          } else {
            expect(fixture.host.arm()).toBe(sent.length === drained.length);
          }
          expect(fixture.lsr() & LSR_IDLE).toBe(room() >= 16 ? LSR_IDLE : 0);
        }
        drained += fixture.drain();
        while ((fixture.lsr() & LSR_DR) !== 0) read += String.fromCharCode(fixture.port.read(UART_RX));
        expect(drained).toBe(sent);
        expect(read).toBe(pushed);
        expect(fixture.host.lost).toBe(lost);
      }),
      { numRuns: 300 },
    );
  });

  test('the ring indices may pass 2^31', () => {
    const shared = createSerialShared({ txRingSize: 32, rxRingSize: 32 });
    for (const ring of [shared.tx, shared.rx]) {
      const words = new Int32Array(ring);
      // 5 bytes before the sign changes.
      for (const index of [RING_WORD.HEAD, RING_WORD.TAIL]) words[index] = 0x7fff_fffb;
    }
    const port = new SerialPort(
      shared,
      () => undefined,
      () => undefined,
    );
    const host = new SerialHost(shared, () => undefined);
    port.writeString(Buffer.from('0123456789'));
    let out = '';
    host.drain((bytes) => {
      out += Buffer.from(bytes).toString();
      return bytes.length;
    });
    expect(out).toBe('0123456789');
    expect(host.push(Buffer.from('abcdefghij'))).toBe(10);
    const read = Array.from({ length: 10 }, () => String.fromCharCode(port.read(UART_RX)));
    expect(read.join('')).toBe('abcdefghij');
  });

  test.each([0, 31, 33, 16, 1.5])('a ring of %d bytes is refused', (txRingSize) => {
    expect(() => createSerialShared({ txRingSize })).toThrow(RangeError);
  });
});
