// The virtio-mmio transport, version 2: virtio 1.2, section 4.2.
//
// The register state of a device is one page of shared memory. `MmioRegisters` runs in whichever vCPU worker took the
// exit; `MmioDevicePage` is the other side, in the I/O worker that owns the device. They meet in three places:
// - InterruptStatus: set by the device with Atomics.or, cleared by the driver's acknowledge with Atomics.and;
// - Status: DEVICE_NEEDS_RESET may be added by the device at any time, so it too changes by atomic operations only;
// - a request word: DRIVER_OK (activate) and Status = 0 (reset) are handshakes. The vCPU waits for the I/O worker's
//   acknowledgement, because Linux frees its rings right after writing 0 without reading the register back.
// Everything else is touched by vCPU threads only, under the page's lock.
//
// Not here: the legacy interface (version 1), shared memory regions (SHMSel reads as "no region"), queue reset.

import { acquire, release } from '../../platform/shared-lock.js';
import { signalEventFd } from '../../platform/eventfd.js';
import type { Fd } from '../../platform/units.js';
import { TWO_POW_32 } from '../../platform/units.js';
import type { QueueLayout } from './queue.js';
import {
  STATUS_ACKNOWLEDGE,
  STATUS_DEVICE_NEEDS_RESET,
  STATUS_DRIVER,
  STATUS_DRIVER_OK,
  STATUS_FAILED,
  STATUS_FEATURES_OK,
  VIRTIO_F_VERSION_1_BIT,
  type DeviceInterrupt,
  type FeatureWords,
} from './device.js';

// Register offsets (table 4.1), R/W as the driver sees them.
const REG_MAGIC_VALUE = 0x000; // R
const REG_VERSION = 0x004; // R
const REG_DEVICE_ID = 0x008; // R
const REG_VENDOR_ID = 0x00c; // R
const REG_DEVICE_FEATURES = 0x010; // R
const REG_DEVICE_FEATURES_SEL = 0x014; // W
const REG_DRIVER_FEATURES = 0x020; // W
const REG_DRIVER_FEATURES_SEL = 0x024; // W
const REG_QUEUE_SEL = 0x030; // W
const REG_QUEUE_NUM_MAX = 0x034; // R
const REG_QUEUE_NUM = 0x038; // W
const REG_QUEUE_READY = 0x044; // RW
export const REG_QUEUE_NOTIFY = 0x050; // W
const REG_INTERRUPT_STATUS = 0x060; // R
const REG_INTERRUPT_ACK = 0x064; // W
const REG_STATUS = 0x070; // RW
const REG_QUEUE_DESC_LOW = 0x080; // W
const REG_QUEUE_DESC_HIGH = 0x084; // W
const REG_QUEUE_DRIVER_LOW = 0x090; // W
const REG_QUEUE_DRIVER_HIGH = 0x094; // W
const REG_QUEUE_DEVICE_LOW = 0x0a0; // W
const REG_QUEUE_DEVICE_HIGH = 0x0a4; // W
const REG_SHM_LEN_LOW = 0x0b0; // R
const REG_SHM_BASE_HIGH = 0x0bc; // R
const REG_CONFIG_GENERATION = 0x0fc; // R
const REG_CONFIG = 0x100; // RW

const MAGIC_VALUE = 0x74726976; // "virt"
const VERSION = 2;
/** "TSVM": any value but those in use tells a driver who made the device. */
const VENDOR_ID = 0x4d565354;

/** Bytes of guest-physical address space one device takes. */
export const MMIO_DEVICE_SIZE = 0x1000;

const INTERRUPT_USED_BUFFER = 1;
const INTERRUPT_CONFIGURATION_CHANGE = 2;

// The shared page, in 32-bit words.
const LOCK = 0;
const STATUS = 1;
const DEVICE_FEATURES_SEL = 2;
const DRIVER_FEATURES_SEL = 3;
const DRIVER_FEATURES = 4; // two words
const DEVICE_FEATURES = 6; // two words
const QUEUE_SEL = 8;
const INTERRUPT_STATUS = 9;
const CONFIG_GENERATION = 10;
const REQUEST = 11;
const DEVICE_ID = 12;
const QUEUE_COUNT = 13;
const CONFIG_BYTES = 14;
/** 1: the driver wrote to the configuration space and the worker has not looked yet. */
const CONFIG_WRITTEN = 15;
const QUEUES = 32;
// Per queue:
const QUEUE_WORDS = 16;
const QUEUE_NUM_MAX = 0;
const QUEUE_NUM = 1;
const QUEUE_READY = 2;
const QUEUE_DESC = 4; // two words each
const QUEUE_DRIVER = 6;
const QUEUE_DEVICE = 8;

const MAX_QUEUES = 64;
const CONFIG_OFFSET = (QUEUES + MAX_QUEUES * QUEUE_WORDS) * 4;
const MAX_CONFIG_BYTES = 256;
/** One byte for each byte of the configuration space: whether the driver may write it. */
const WRITABLE_OFFSET = CONFIG_OFFSET + MAX_CONFIG_BYTES;
const PAGE_BYTES = WRITABLE_OFFSET + MAX_CONFIG_BYTES;

// States of the request word.
const REQUEST_NONE = 0;
const REQUEST_ACTIVATE = 1;
const REQUEST_RESET = 2;
export type DeviceRequest = 'activate' | 'reset';

/** How long a vCPU sleeps between two looks at `abandoned` while the I/O worker handles a request. */
const REQUEST_POLL_MS = 100;
/** After this long without an answer the device is given up: something is wrong with its worker. */
const REQUEST_LIMIT_MS = 5000;

/** What is fixed about a device before its driver comes. */
export interface MmioDeviceIdentity {
  readonly deviceId: number;
  readonly features: FeatureWords;
  /** The largest size of each queue: powers of two. */
  readonly queueSizes: readonly number[];
  /** The initial device configuration space. */
  readonly config: Uint8Array;
  /** The fields of the configuration space that the driver may write. */
  readonly writableConfig?: readonly { readonly offset: number; readonly length: number }[];
  /** Features that the driver of a saved device may go on using where they are not offered any more. */
  readonly harmlessFeatures?: FeatureWords;
  /** Little-endian fields that depend on the host, and must be the same where a saved device goes on. */
  readonly lastingConfig?: readonly { readonly offset: number; readonly length: 8; readonly name: string }[];
}

/** Makes the shared page of a device in its reset state. */
export function createMmioPage(identity: MmioDeviceIdentity): SharedArrayBuffer {
  if (identity.queueSizes.length > MAX_QUEUES || identity.config.length > MAX_CONFIG_BYTES) {
    throw new RangeError('too many queues or too large a configuration space for the register page');
  }
  const page = new SharedArrayBuffer(PAGE_BYTES);
  const words = new Int32Array(page);
  words[DEVICE_ID] = identity.deviceId;
  words[DEVICE_FEATURES] = identity.features.low;
  words[DEVICE_FEATURES + 1] = identity.features.high;
  words[QUEUE_COUNT] = identity.queueSizes.length;
  words[CONFIG_BYTES] = identity.config.length;
  identity.queueSizes.forEach((size, index) => {
    words[QUEUES + index * QUEUE_WORDS + QUEUE_NUM_MAX] = size;
  });
  new Uint8Array(page, CONFIG_OFFSET).set(identity.config);
  const writable = new Uint8Array(page, WRITABLE_OFFSET);
  for (const { offset, length } of identity.writableConfig ?? []) writable.fill(1, offset, offset + length);
  return page;
}

/**
 * Why a device with `identity` cannot go on from the registers of a saved page; undefined when it can. A driver may have
 * accepted less than what is offered here, but nothing more.
 */
export function savedPageMismatch(identity: MmioDeviceIdentity, saved: Uint8Array): string | undefined {
  if (saved.length !== PAGE_BYTES) return `its registers have ${saved.length} bytes instead of ${PAGE_BYTES}`;
  const view = new DataView(saved.buffer, saved.byteOffset, saved.byteLength);
  const word = (index: number): number => view.getUint32(index * 4, true);
  const { deviceId, features, harmlessFeatures, queueSizes, config, lastingConfig = [] } = identity;
  if (word(DEVICE_ID) !== deviceId) return `it was a device of type ${word(DEVICE_ID)}, and is one of ${deviceId}`;
  if (word(QUEUE_COUNT) !== queueSizes.length) {
    return `it had ${word(QUEUE_COUNT)} queues, and has ${queueSizes.length}`;
  }
  if (word(CONFIG_BYTES) !== config.length) return 'its configuration space has another size';
  const beyond = [
    word(DRIVER_FEATURES) & ~(features.low | (harmlessFeatures?.low ?? 0)),
    word(DRIVER_FEATURES + 1) & ~(features.high | (harmlessFeatures?.high ?? 0)),
  ];
  const bit = beyond[0] !== 0 ? lowestBit(beyond[0]) : 32 + lowestBit(beyond[1]);
  if (beyond.some((bits) => bits !== 0)) return `its driver uses feature ${bit}, which this host does not offer`;
  const here = new DataView(config.buffer, config.byteOffset, config.byteLength);
  const differing = lastingConfig.find(
    ({ offset }) => here.getBigUint64(offset, true) !== view.getBigUint64(CONFIG_OFFSET + offset, true),
  );
  if (differing === undefined) return undefined;
  const { name, offset } = differing;
  return `it had ${view.getBigUint64(CONFIG_OFFSET + offset, true)} ${name}, and has ${here.getBigUint64(offset, true)}`;
}

function lowestBit(bits: number): number {
  return 31 - Math.clz32(bits & -bits);
}

/**
 * Puts the registers of a saved page into that of a device with the same identity. What is fixed about a device stays as
 * it is here, and nobody is waiting for a request.
 */
export function restoreMmioPage(page: SharedArrayBuffer, saved: Uint8Array): void {
  const words = new Int32Array(page);
  const savedWords = new Int32Array(saved.slice().buffer);
  const fixed = new Set([LOCK, REQUEST, DEVICE_ID, DEVICE_FEATURES, DEVICE_FEATURES + 1, QUEUE_COUNT, CONFIG_BYTES]);
  for (let word = 0; word < QUEUES; word++) if (!fixed.has(word)) words[word] = savedWords[word];
  for (let index = 0; index < words[QUEUE_COUNT]; index++) {
    const queue = QUEUES + index * QUEUE_WORDS;
    for (let word = QUEUE_NUM; word < QUEUE_WORDS; word++) words[queue + word] = savedWords[queue + word];
  }
  const configBytes = words[CONFIG_BYTES];
  new Uint8Array(page, CONFIG_OFFSET, configBytes).set(saved.subarray(CONFIG_OFFSET, CONFIG_OFFSET + configBytes));
}

/** The registers of one device as the driver sees them. One instance per vCPU thread over the same page. */
export class MmioRegisters {
  private readonly words: Int32Array;
  private readonly config: Uint8Array;
  private readonly writableConfig: Uint8Array;
  private readonly requestEvent: Fd;
  private readonly notify: (queue: number) => void;
  private readonly abandoned: () => boolean;

  /**
   * `requestEvent` wakes the I/O worker for a request; `notify` stands in for the ioeventfd where a notification
   * exits to user space after all (a value KVM does not match); `abandoned` ends a wait when the VM is stopping.
   */
  constructor(page: SharedArrayBuffer, requestEvent: Fd, notify: (queue: number) => void, abandoned: () => boolean) {
    this.words = new Int32Array(page, 0, CONFIG_OFFSET / 4);
    this.config = new Uint8Array(page, CONFIG_OFFSET, this.words[CONFIG_BYTES]);
    this.writableConfig = new Uint8Array(page, WRITABLE_OFFSET, this.words[CONFIG_BYTES]);
    this.requestEvent = requestEvent;
    this.notify = notify;
    this.abandoned = abandoned;
  }

  /** A driver's read of `size` bytes at `offset`. Registers are 32 bits wide; anything else reads as 0 (4.2.2.2). */
  read(offset: number, size: number): number {
    if (offset >= REG_CONFIG) return this.readConfig(offset - REG_CONFIG, size);
    if (size !== 4) return 0;
    const { words } = this;
    switch (offset) {
      case REG_MAGIC_VALUE:
        return MAGIC_VALUE;
      case REG_VERSION:
        return VERSION;
      case REG_DEVICE_ID:
        return words[DEVICE_ID];
      case REG_VENDOR_ID:
        return VENDOR_ID;
      case REG_INTERRUPT_STATUS:
        return Atomics.load(words, INTERRUPT_STATUS);
      case REG_STATUS:
        return Atomics.load(words, STATUS);
      case REG_CONFIG_GENERATION:
        return Atomics.load(words, CONFIG_GENERATION);
    }
    // "No such region" for every shared memory region (4.2.2).
    if (offset >= REG_SHM_LEN_LOW && offset <= REG_SHM_BASE_HIGH) return 0xffff_ffff;
    acquire(words, LOCK);
    try {
      return this.readSelected(offset);
    } finally {
      release(words, LOCK);
    }
  }

  /** A driver's write of `size` bytes at `offset`. Writes that make no sense in the present state change nothing. */
  write(offset: number, size: number, value: number): void {
    if (offset >= REG_CONFIG) {
      this.writeConfig(offset - REG_CONFIG, size, value);
      return;
    }
    if (size !== 4) return;
    const { words } = this;
    switch (offset) {
      case REG_QUEUE_NOTIFY:
        if (value < words[QUEUE_COUNT]) this.notify(value);
        return;
      case REG_INTERRUPT_ACK:
        Atomics.and(words, INTERRUPT_STATUS, ~value);
        return;
    }
    acquire(words, LOCK);
    try {
      if (offset === REG_STATUS) this.writeStatus(value);
      else this.writeSelected(offset, value);
    } finally {
      release(words, LOCK);
    }
  }

  /** What a driver does by writing 0 to Status: on behalf of a machine that starts again. */
  resetDevice(): void {
    // A vCPU that was stopped while it waited has left its request to the worker.
    const request = Atomics.load(this.words, REQUEST);
    if (request !== REQUEST_NONE) this.awaitChange(REQUEST, request);
    this.write(REG_STATUS, 4, 0);
  }

  private writeConfig(offset: number, size: number, value: number): void {
    const { config, writableConfig, words } = this;
    for (let byte = 0; byte < size; byte++) if (writableConfig[offset + byte] !== 1) return;
    acquire(words, LOCK);
    try {
      for (let byte = 0; byte < size; byte++) config[offset + byte] = value >>> (8 * byte);
      // Release: the worker sees the bytes.
      Atomics.store(words, CONFIG_WRITTEN, 1);
      signalEventFd(this.requestEvent);
      // A field can be a register, each write of which counts (the console's emerg_wr): the next write waits.
      this.awaitChange(CONFIG_WRITTEN, 1);
    } finally {
      release(words, LOCK);
    }
  }

  private readSelected(offset: number): number {
    const { words } = this;
    const queue = this.selectedQueue();
    switch (offset) {
      case REG_DEVICE_FEATURES: {
        const selector = words[DEVICE_FEATURES_SEL];
        return selector === 0 || selector === 1 ? words[DEVICE_FEATURES + selector] >>> 0 : 0;
      }
      case REG_QUEUE_NUM_MAX:
        return queue < 0 ? 0 : words[queue + QUEUE_NUM_MAX];
      case REG_QUEUE_READY:
        return queue < 0 ? 0 : words[queue + QUEUE_READY];
      default:
        return 0;
    }
  }

  private writeSelected(offset: number, value: number): void {
    const { words } = this;
    const status = Atomics.load(words, STATUS);
    switch (offset) {
      case REG_DEVICE_FEATURES_SEL:
        words[DEVICE_FEATURES_SEL] = value;
        return;
      case REG_DRIVER_FEATURES_SEL:
        words[DRIVER_FEATURES_SEL] = value;
        return;
      case REG_DRIVER_FEATURES: {
        const selector = words[DRIVER_FEATURES_SEL];
        // 2.2.1: features are fixed once FEATURES_OK is set.
        if ((status & STATUS_FEATURES_OK) === 0 && (selector === 0 || selector === 1)) {
          words[DRIVER_FEATURES + selector] = value;
        }
        return;
      }
      case REG_QUEUE_SEL:
        words[QUEUE_SEL] = value;
        return;
    }
    const queue = this.selectedQueue();
    // 3.1.1: queues are set up between FEATURES_OK and DRIVER_OK, and stay as they are from then on.
    if (queue < 0 || (status & (STATUS_FEATURES_OK | STATUS_DRIVER_OK)) !== STATUS_FEATURES_OK) return;
    const ready = words[queue + QUEUE_READY] !== 0;
    switch (offset) {
      case REG_QUEUE_READY:
        words[queue + QUEUE_READY] = value & 1;
        return;
      case REG_QUEUE_NUM:
        if (!ready && value > 0 && value <= words[queue + QUEUE_NUM_MAX]) words[queue + QUEUE_NUM] = value;
        return;
      case REG_QUEUE_DESC_LOW:
      case REG_QUEUE_DESC_HIGH:
        if (!ready) words[queue + QUEUE_DESC + ((offset & 4) >> 2)] = value;
        return;
      case REG_QUEUE_DRIVER_LOW:
      case REG_QUEUE_DRIVER_HIGH:
        if (!ready) words[queue + QUEUE_DRIVER + ((offset & 4) >> 2)] = value;
        return;
      case REG_QUEUE_DEVICE_LOW:
      case REG_QUEUE_DEVICE_HIGH:
        if (!ready) words[queue + QUEUE_DEVICE + ((offset & 4) >> 2)] = value;
        return;
    }
  }

  private writeStatus(value: number): void {
    const { words } = this;
    if (value === 0) {
      this.reset();
      return;
    }
    const current = Atomics.load(words, STATUS);
    // 2.1.1: a driver only adds bits; the device's own bit is not the driver's to write.
    const added = value & ~current & ~STATUS_DEVICE_NEEDS_RESET;
    let accepted = added & (STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FAILED);
    if ((added & STATUS_FEATURES_OK) !== 0 && this.featuresAcceptable()) accepted |= STATUS_FEATURES_OK;
    const featuresOk = ((current | accepted) & STATUS_FEATURES_OK) !== 0;
    if ((added & STATUS_DRIVER_OK) !== 0 && featuresOk && (current & STATUS_FAILED) === 0) {
      accepted |= STATUS_DRIVER_OK;
    }
    Atomics.or(words, STATUS, accepted);
    if ((accepted & STATUS_DRIVER_OK) !== 0) this.request(REQUEST_ACTIVATE);
  }

  /** 2.2.2: everything accepted was offered; and without VERSION_1 this would be the legacy interface. */
  private featuresAcceptable(): boolean {
    const { words } = this;
    if (((words[DRIVER_FEATURES + 1] >>> (VIRTIO_F_VERSION_1_BIT - 32)) & 1) === 0) return false;
    return (
      (words[DRIVER_FEATURES] & ~words[DEVICE_FEATURES]) === 0 &&
      (words[DRIVER_FEATURES + 1] & ~words[DEVICE_FEATURES + 1]) === 0
    );
  }

  private reset(): void {
    const { words } = this;
    // A device that never became active owns nothing that the worker would have to let go of.
    if ((Atomics.load(words, STATUS) & STATUS_DRIVER_OK) !== 0) this.request(REQUEST_RESET);
    Atomics.store(words, INTERRUPT_STATUS, 0);
    words[DRIVER_FEATURES] = 0;
    words[DRIVER_FEATURES + 1] = 0;
    words[DEVICE_FEATURES_SEL] = 0;
    words[DRIVER_FEATURES_SEL] = 0;
    words[QUEUE_SEL] = 0;
    for (let index = 0; index < words[QUEUE_COUNT]; index++) {
      const queue = QUEUES + index * QUEUE_WORDS;
      words.fill(0, queue + QUEUE_NUM, queue + QUEUE_WORDS);
    }
    Atomics.store(words, STATUS, 0);
  }

  private request(request: number): void {
    const { words } = this;
    // Release: the worker that sees the request sees every register written before it.
    Atomics.store(words, REQUEST, request);
    signalEventFd(this.requestEvent);
    if (!this.awaitChange(REQUEST, request)) Atomics.or(words, STATUS, STATUS_DEVICE_NEEDS_RESET);
  }

  /** Whether the worker took `value` out of `word`, or there is nobody left to care. */
  private awaitChange(word: number, value: number): boolean {
    for (let waited = 0; waited < REQUEST_LIMIT_MS; waited += REQUEST_POLL_MS) {
      if (Atomics.wait(this.words, word, value, REQUEST_POLL_MS) !== 'timed-out') return true;
      if (this.abandoned()) return true;
    }
    return false;
  }

  private readConfig(offset: number, size: number): number {
    let value = 0;
    for (let index = 0; index < size && offset + index < this.config.length; index++) {
      value |= this.config[offset + index] << (8 * index);
    }
    return value >>> 0;
  }

  /** The first word of the selected queue, or -1. */
  private selectedQueue(): number {
    const selector = this.words[QUEUE_SEL];
    return selector >= 0 && selector < this.words[QUEUE_COUNT] ? QUEUES + selector * QUEUE_WORDS : -1;
  }
}

/** The I/O worker's side of the page, and the device's interrupt. */
export class MmioDevicePage implements DeviceInterrupt {
  private readonly words: Int32Array;
  private readonly config: Uint8Array;
  private readonly irqFd: Fd;

  constructor(page: SharedArrayBuffer, irqFd: Fd) {
    this.words = new Int32Array(page, 0, CONFIG_OFFSET / 4);
    this.config = new Uint8Array(page, CONFIG_OFFSET, this.words[CONFIG_BYTES]);
    this.irqFd = irqFd;
  }

  get queueCount(): number {
    return this.words[QUEUE_COUNT];
  }

  /** The request a vCPU waits on, if any; it is answered with `acknowledge`. */
  pendingRequest(): DeviceRequest | undefined {
    switch (Atomics.load(this.words, REQUEST)) {
      case REQUEST_ACTIVATE:
        return 'activate';
      case REQUEST_RESET:
        return 'reset';
      default:
        return undefined;
    }
  }

  /** Lets the vCPU that made the request go on. */
  acknowledge(): void {
    // Release: the vCPU sees everything the worker did for the request.
    Atomics.store(this.words, REQUEST, REQUEST_NONE);
    Atomics.notify(this.words, REQUEST);
  }

  /** The live configuration space if the driver wrote to it; it is answered with `configTaken`. */
  writtenConfig(): Uint8Array | undefined {
    return Atomics.load(this.words, CONFIG_WRITTEN) === 0 ? undefined : this.config;
  }

  /** Lets the vCPU that wrote to the configuration space go on. */
  configTaken(): void {
    Atomics.store(this.words, CONFIG_WRITTEN, 0);
    Atomics.notify(this.words, CONFIG_WRITTEN);
  }

  /** The features the driver accepted. */
  driverFeatures(): FeatureWords {
    return { low: this.words[DRIVER_FEATURES] >>> 0, high: this.words[DRIVER_FEATURES + 1] >>> 0 };
  }

  /** Where the driver put queue `index`; `undefined` when it did not make it ready. */
  queueLayout(index: number): QueueLayout | undefined {
    const queue = QUEUES + index * QUEUE_WORDS;
    if (this.words[queue + QUEUE_READY] === 0) return undefined;
    return {
      size: this.words[queue + QUEUE_NUM],
      descriptorTable: this.address(queue + QUEUE_DESC),
      availableRing: this.address(queue + QUEUE_DRIVER),
      usedRing: this.address(queue + QUEUE_DEVICE),
    };
  }

  /** Replaces bytes of the configuration space; the generation tells a driver that reads meanwhile to read again. */
  updateConfig(offset: number, bytes: Uint8Array): void {
    this.config.set(bytes, offset);
    Atomics.add(this.words, CONFIG_GENERATION, 1);
  }

  usedBuffers(): void {
    this.raise(INTERRUPT_USED_BUFFER);
  }

  configurationChanged(): void {
    this.raise(INTERRUPT_CONFIGURATION_CHANGE);
  }

  needsReset(): void {
    Atomics.or(this.words, STATUS, STATUS_DEVICE_NEEDS_RESET);
    this.raise(INTERRUPT_CONFIGURATION_CHANGE);
  }

  private raise(bit: number): void {
    // The status bit before the interrupt: the handler that runs because of it must find the reason.
    Atomics.or(this.words, INTERRUPT_STATUS, bit);
    signalEventFd(this.irqFd);
  }

  private address(word: number): number {
    return (this.words[word] >>> 0) + (this.words[word + 1] >>> 0) * TWO_POW_32;
  }
}
