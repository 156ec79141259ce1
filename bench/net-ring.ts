// A network driver for benchmarks: buffers laid out once in guest memory, offered again and again. It does as little as a
// driver can, so that what is measured is the device.

import { NetDevice } from '../src/devices/net/device.js';
import { NET_COUNTERS, RX_FRAMES, TX_FRAMES, VIRTIO_NET_F_MRG_RXBUF_BIT } from '../src/devices/net/settings.js';
import { featureWords, VIRTIO_F_VERSION_1_BIT } from '../src/devices/virtio/device.js';
import { SplitQueue, type QueueLayout } from '../src/devices/virtio/queue.js';
import { EventLoop } from '../src/platform/event-loop.js';
import { MIB, type Fd } from '../src/platform/units.js';
import { RingMemory } from './ring-memory.js';

const DESC_F_NEXT = 1;
const DESC_F_WRITE = 2;
const DESC_SIZE = 16;
const HEADER_SIZE = 12;

const QUEUE_SIZE = 256;
const RX_RING = 0;
const TX_RING = 0x4000;
const AVAILABLE = 0x1000;
const USED = 0x2000;
const TX_HEADER = 0x8000;
const TX_FRAME = 0x9000;
const RX_BUFFERS = MIB;
/** What Linux posts for an MTU of 1500. */
const RX_BUFFER_SIZE = 1536;
const MEMORY_SIZE = 4 * MIB;

export class NetRing {
  private readonly ram = new RingMemory(MEMORY_SIZE);
  private readonly loop = new EventLoop();
  private readonly device: NetDevice;
  private readonly words16: Uint16Array;
  private readonly words32: Uint32Array;
  private readonly counters = new Float64Array(NET_COUNTERS.length);

  /** `fd` gives and takes one frame a call, as a tap does; it stays the caller's. */
  constructor(fd: Fd) {
    const { memory, chunk } = this.ram;
    ({ words16: this.words16, words32: this.words32 } = chunk);
    this.device = new NetDevice(
      { kind: 'net', queues: [fd], rateLimiter: undefined },
      {
        loop: this.loop,
        log: (_level, message) => {
          console.error(message);
        },
        updateConfig: () => undefined,
        counters: this.counters,
      },
      { setOffload: () => 0, setAttached: () => 0 },
    );
    for (let slot = 0; slot < QUEUE_SIZE; slot++) {
      this.describe(RX_RING, slot, RX_BUFFERS + slot * 2 * RX_BUFFER_SIZE, RX_BUFFER_SIZE, DESC_F_WRITE, 0);
      this.words16[((RX_RING + AVAILABLE) >>> 1) + 2 + slot] = slot;
      this.words16[((TX_RING + AVAILABLE) >>> 1) + 2 + slot] = (2 * slot) % QUEUE_SIZE;
    }
    const queue = (base: number): SplitQueue => {
      const layout: QueueLayout = {
        size: QUEUE_SIZE,
        descriptorTable: base,
        availableRing: base + AVAILABLE,
        usedRing: base + USED,
      };
      return new SplitQueue(memory, layout, { eventIdx: true, indirect: true });
    };
    this.device.activate({
      memory,
      queues: [queue(RX_RING), queue(TX_RING)],
      features: featureWords([VIRTIO_F_VERSION_1_BIT, VIRTIO_NET_F_MRG_RXBUF_BIT]),
      interrupt: { usedBuffers: () => undefined, configurationChanged: () => undefined, needsReset: () => undefined },
    });
  }

  /** Sends frames of `bytes`, header included, for so long; frames a second. */
  send(bytes: number, seconds: number): number {
    for (let slot = 0; slot < QUEUE_SIZE; slot += 2) {
      this.describe(TX_RING, slot, TX_HEADER, HEADER_SIZE, DESC_F_NEXT, slot + 1);
      this.describe(TX_RING, slot + 1, TX_FRAME, bytes - HEADER_SIZE, 0, 0);
    }
    return this.rate(TX_FRAMES, seconds, () => {
      // Chains of two: half of the descriptors are heads.
      this.offer(TX_RING, QUEUE_SIZE / 2);
    });
  }

  /** Receives whatever comes for so long; frames a second. */
  receive(seconds: number): number {
    return this.rate(RX_FRAMES, seconds, () => {
      this.offer(RX_RING, QUEUE_SIZE);
    });
  }

  close(): void {
    this.device.close();
    this.loop.close();
    this.ram.close();
  }

  private rate(counter: number, seconds: number, offer: () => void): number {
    const before = this.counters[counter];
    const start = performance.now();
    let elapsed = 0;
    do {
      for (let turns = 0; turns < 16; turns++) {
        offer();
        this.loop.turn(1);
      }
      elapsed = performance.now() - start;
    } while (elapsed < seconds * 1000);
    return ((this.counters[counter] - before) / elapsed) * 1000;
  }

  /** Keeps `chains` on offer. They come back in order, so that the entries of the available ring need no change. */
  private offer(ring: number, chains: number): void {
    const used = Atomics.load(this.words16, ((ring + USED) >>> 1) + 1);
    Atomics.store(this.words16, ((ring + AVAILABLE) >>> 1) + 1, (used + chains) & 0xffff);
  }

  private describe(ring: number, slot: number, address: number, length: number, flags: number, next: number): void {
    const word = (ring + slot * DESC_SIZE) >>> 2;
    this.words32[word] = address;
    this.words32[word + 1] = 0;
    this.words32[word + 2] = length;
    this.words32[word + 3] = flags | (next << 16);
  }
}
