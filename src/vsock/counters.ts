// What a vsock device counts, in shared memory: the I/O worker adds, any thread may look.
//
// Float64 because byte counts pass 2^32 quickly and are exact up to 2^53. A reader may see one counter a moment before
// another: these are statistics.

const NAMES = [
  'rxBytes',
  'rxPackets',
  'rxReads',
  'txBytes',
  'txPackets',
  'txWrites',
  'interrupts',
  'connectionsFromGuest',
  'connectionsFromHost',
  'connectionsRefused',
  'creditStalls',
  'starvedStalls',
  'writeStalls',
  'resetsSent',
  'resetsReceived',
  'guestFaults',
  'rxBatches',
  'txBatches',
  'resetsRefused',
  'resetsTimedOut',
  'resetsFinished',
  'resetsBroken',
  'resetsUnknown',
] as const satisfies readonly VsockCounterName[];

/** What a vsock device has counted since its VM was created. rx is host to guest, tx is guest to host. */
export interface VsockCounterSnapshot {
  /** Bytes of payload to the guest. */
  readonly rxBytes: number;
  /** Packets to the guest, those without payload included. */
  readonly rxPackets: number;
  /** Reads of the host side; each may fill many packets. */
  readonly rxReads: number;
  /** Bytes of payload from the guest. */
  readonly txBytes: number;
  /** Packets from the guest, those without payload included. */
  readonly txPackets: number;
  /** Writes to the host side; each may empty many packets. */
  readonly txWrites: number;
  /** Interrupts that the guest got. */
  readonly interrupts: number;
  /** Connections that the guest opened and the host side took. */
  readonly connectionsFromGuest: number;
  /** Connections that the host side opened. */
  readonly connectionsFromHost: number;
  /** Connections of the guest that were refused. */
  readonly connectionsRefused: number;
  /** How often a connection waited for credit of the guest. */
  readonly creditStalls: number;
  /** How often the guest had no receive buffers posted. */
  readonly starvedStalls: number;
  /** How often the host side took less than the guest sent. */
  readonly writeStalls: number;
  /** RST packets to the guest, whatever their reason. */
  readonly resetsSent: number;
  /** RST packets from the guest. */
  readonly resetsReceived: number;
  /** Packets and descriptors of the guest that broke the rules. */
  readonly guestFaults: number;
  /** Batches that carried packets to the guest. */
  readonly rxBatches: number;
  /** Batches that carried packets from the guest. */
  readonly txBatches: number;
  /** RST sent because nobody answers at the port, or there is no room for another connection. */
  readonly resetsRefused: number;
  /** RST sent because the guest did not answer a request or a shutdown in time. */
  readonly resetsTimedOut: number;
  /** RST sent at the ordinary end of a connection. */
  readonly resetsFinished: number;
  /** RST sent because the guest broke the protocol, or a message was too long. */
  readonly resetsBroken: number;
  /** RST sent because the guest spoke on a connection that does not exist. */
  readonly resetsUnknown: number;
}

/** The name of one of the counters. */
export type VsockCounterName = keyof VsockCounterSnapshot;

export const RX_BYTES = 0;
export const RX_PACKETS = 1;
export const RX_READS = 2;
export const TX_BYTES = 3;
export const TX_PACKETS = 4;
export const TX_WRITES = 5;
export const INTERRUPTS = 6;
export const CONNECTIONS_FROM_GUEST = 7;
export const CONNECTIONS_FROM_HOST = 8;
export const CONNECTIONS_REFUSED = 9;
export const CREDIT_STALLS = 10;
export const STARVED_STALLS = 11;
export const WRITE_STALLS = 12;
export const RESETS_SENT = 13;
export const RESETS_RECEIVED = 14;
export const GUEST_FAULTS = 15;
/** Batches that carried anything: rxPackets / rxBatches packets are published at once. */
export const RX_BATCHES = 16;
export const TX_BATCHES = 17;
// Why RST was sent. Nobody answered for the port, or there was no room:
export const RESETS_REFUSED = 18;
/** The guest did not answer REQUEST or SHUTDOWN. */
export const RESETS_TIMED_OUT = 19;
/** The ordinary end: the answer to SHUTDOWN(both), or the host side left. */
export const RESETS_FINISHED = 20;
/** The guest broke the protocol, or a message was too long. */
export const RESETS_BROKEN = 21;
/** The guest spoke on a connection that does not exist. */
export const RESETS_UNKNOWN = 22;

/** One counter per index above. */
export class VsockCounters {
  readonly values: Float64Array;

  /** Over `memory` when it is given: memory that another thread looks at. */
  constructor(memory: SharedArrayBuffer = createCounterMemory()) {
    this.values = new Float64Array(memory);
  }

  add(index: number, amount: number): void {
    this.values[index] += amount;
  }

  /** Those that are not 0, for a log: `rxBytes 4096, rxPackets 2`. */
  describe(): string {
    return NAMES.map((name, index) => `${name} ${this.values[index]}`)
      .filter((_text, index) => this.values[index] !== 0)
      .join(', ');
  }

  snapshot(): VsockCounterSnapshot {
    return Object.fromEntries(
      NAMES.map((name, index) => [name, this.values[index]]),
    ) as unknown as VsockCounterSnapshot;
  }
}

export function createCounterMemory(): SharedArrayBuffer {
  return new SharedArrayBuffer(NAMES.length * Float64Array.BYTES_PER_ELEMENT);
}
