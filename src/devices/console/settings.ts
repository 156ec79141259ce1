// The virtio console as plain data: what crosses to its I/O worker, what the transport says of it, and what it shares
// with the main thread. Imports nothing of the device's code.
//
//   tx ring: guest to host. Producer: the I/O worker. Consumer: the main thread.
//   rx ring: host to guest. Producer: the main thread. Consumer: the I/O worker.

import { createSharedRing } from '../../platform/shared-ring.js';
import type { TerminalSize } from '../../platform/terminal.js';
import type { Fd } from '../../platform/units.js';
import {
  featureWords,
  VIRTIO_F_VERSION_1_BIT,
  VIRTIO_ID_CONSOLE,
  VIRTIO_RING_F_EVENT_IDX_BIT,
  VIRTIO_RING_F_INDIRECT_DESC_BIT,
} from '../virtio/device.js';
import type { MmioDeviceIdentity } from '../virtio/mmio.js';

export const VIRTIO_CONSOLE_F_SIZE_BIT = 0;
export const VIRTIO_CONSOLE_F_EMERG_WRITE_BIT = 2;

export const CONSOLE_RX_QUEUE = 0;
export const CONSOLE_TX_QUEUE = 1;
/** More than any driver has under way on a console. */
const QUEUE_SIZE = 64;

// struct virtio_console_config { le16 cols; le16 rows; le32 max_nr_ports; le32 emerg_wr; } (virtio 1.2, 5.3.4)
const CONFIG_SIZE = 12;
export const CONFIG_COLS = 0;
const CONFIG_MAX_NR_PORTS = 4;
export const CONFIG_EMERG_WR = 8;

export const CONSOLE_COUNTERS = ['rxBytes', 'txBytes', 'interrupts', 'guestFaults'] as const;
export const RX_BYTES = 0;
export const TX_BYTES = 1;
export const INTERRUPTS = 2;
export const GUEST_FAULTS = 3;

/** Room for a burst while the main thread is busy. */
const DEFAULT_TX_RING_SIZE = 256 * 1024;
/** A large paste; what does not fit stays with the caller. */
const DEFAULT_RX_RING_SIZE = 64 * 1024;

/** What the main thread and the I/O worker share of a console: plain data. */
export interface ConsoleShared {
  readonly tx: SharedArrayBuffer;
  readonly rx: SharedArrayBuffer;
  /** One word: the terminal's columns, and its rows above 2^16. */
  readonly size: SharedArrayBuffer;
}

/** Ring sizes are powers of two, at least 32. */
export function createConsoleShared(
  sizes: { readonly txRingSize?: number; readonly rxRingSize?: number } = {},
): ConsoleShared {
  const { txRingSize = DEFAULT_TX_RING_SIZE, rxRingSize = DEFAULT_RX_RING_SIZE } = sizes;
  return {
    tx: createSharedRing(txRingSize),
    rx: createSharedRing(rxRingSize),
    size: new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT),
  };
}

export interface ConsoleSettings {
  readonly kind: 'console';
  readonly shared: ConsoleShared;
  /** Wakes the I/O worker: input, room for output, another size. */
  readonly deviceEvent: Fd;
  /** Wakes the main thread: output, room for input. */
  readonly hostEvent: Fd;
}

/** What the transport says of a console. A `size` is that of the terminal behind it, if there is one. */
export function consoleIdentity(size: TerminalSize | undefined): MmioDeviceIdentity {
  const config = new Uint8Array(CONFIG_SIZE);
  const view = new DataView(config.buffer);
  if (size !== undefined) view.setUint32(CONFIG_COLS, packSize(size), true);
  view.setUint32(CONFIG_MAX_NR_PORTS, 1, true);
  return {
    deviceId: VIRTIO_ID_CONSOLE,
    features: featureWords([
      ...(size === undefined ? [] : [VIRTIO_CONSOLE_F_SIZE_BIT]),
      VIRTIO_CONSOLE_F_EMERG_WRITE_BIT,
      VIRTIO_F_VERSION_1_BIT,
      VIRTIO_RING_F_INDIRECT_DESC_BIT,
      VIRTIO_RING_F_EVENT_IDX_BIT,
    ]),
    harmlessFeatures: featureWords([VIRTIO_CONSOLE_F_SIZE_BIT]),
    queueSizes: [QUEUE_SIZE, QUEUE_SIZE],
    config,
    writableConfig: [{ offset: CONFIG_EMERG_WR, length: 4 }],
  };
}

/** Columns and rows as they stand side by side in the configuration space. */
export function packSize({ columns, rows }: TerminalSize): number {
  return ((rows & 0xffff) << 16) | (columns & 0xffff);
}
