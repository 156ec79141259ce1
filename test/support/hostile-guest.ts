// A vsock driver that keeps to the protocol where it likes, and breaks it everywhere else: rings, headers, timing.
//
// It knows enough to get connections going, so that what it breaks is broken in every state a connection has.

import type { QueueLayout } from '../../src/devices/virtio/queue.js';
import type { GuardedRam } from './guarded-ram.js';
import { HostileDriver, LOW_SIZE } from './hostile-driver.js';
import type { Random } from './random.js';

export const HOSTILE_CID = 3;

const HEADER_SIZE = 44;
const HOST_CID = 2;

const OP_REQUEST = 1;
const OP_RESPONSE = 2;
const OP_RW = 5;
const OPS = [OP_REQUEST, OP_RESPONSE, 3, 4, OP_RW, OP_RW, OP_RW, 6, 7];
/** Few, so that packets meet connections that are there. */
const GUEST_PORTS = [1000, 1001, 1002];

export class HostileGuest extends HostileDriver {
  /** Ports of the host side that lead somewhere. */
  hostPorts: readonly number[] = [];
  /** What the device asked for, and what is up: guest port and host port by turns. */
  private readonly asked: number[] = [];
  private readonly established: number[] = [];

  constructor(random: Random, ram: GuardedRam) {
    super(random, ram, 3);
  }

  override makeRings(): QueueLayout[] {
    this.asked.length = 0;
    this.established.length = 0;
    return super.makeRings();
  }

  /** Looks at what the device delivered, for ports that it asks for. Tolerates anything: it rewrote the rings itself. */
  look(): void {
    const [rx] = this.rings;
    const { view } = this;
    const published = view.getUint16(rx.base + 0xa02, true);
    for (let seen = 0; rx.usedIndex !== published && seen < rx.size; seen++) {
      const head = view.getUint32(rx.base + 0xa04 + 8 * (rx.usedIndex & (rx.size - 1)), true);
      rx.usedIndex = (rx.usedIndex + 1) & 0xffff;
      if (head >= rx.size) continue;
      let at = view.getUint32(rx.base + 16 * head, true);
      const indirect = (view.getUint16(rx.base + 16 * head + 12, true) & 4) !== 0;
      if (indirect && at <= LOW_SIZE - 4) at = view.getUint32(at, true);
      if (at + HEADER_SIZE > LOW_SIZE) continue;
      const op = view.getUint16(at + 30, true);
      const ports = [view.getUint32(at + 20, true), view.getUint32(at + 16, true)];
      if (op === OP_REQUEST) this.asked.push(...ports);
      if (op === OP_RESPONSE) this.established.push(...ports);
    }
  }

  postRx(): void {
    const { random } = this;
    const total = random.oneIn(6) ? random.size(100) : random.between(HEADER_SIZE + 1, 5000);
    const cuts = random.oneIn(3) ? random.between(1, 50) : random.between(1, 3);
    this.offer(0, this.cut(this.place(total), total, cuts, true));
  }

  /** A packet whose header is right but for what `random` changes. */
  sendPacket(): void {
    const { random, view, asked, established } = this;
    const length = random.oneIn(2) ? random.size(6000) : 0;
    const at = this.place(HEADER_SIZE + length);
    let op = OP_REQUEST;
    let ports = [random.pick(GUEST_PORTS), random.pick(this.hostPorts)];
    if (asked.length > 0 && !random.oneIn(4)) {
      ports = asked.splice(0, 2);
      op = OP_RESPONSE;
      established.push(...ports);
    } else if (established.length > 0 && !random.oneIn(4)) {
      const which = 2 * random.below(established.length / 2);
      ports = established.slice(which, which + 2);
      op = random.oneIn(6) ? random.pick(OPS) : OP_RW;
    }
    if (this.breaks(4)) op = random.pick(OPS);
    const [guestPort, hostPort] = ports;
    const words = [
      HOSTILE_CID,
      0,
      HOST_CID,
      0,
      guestPort,
      hostPort,
      op === OP_RW ? length : 0,
      1 | (op << 16),
      op === 4 ? random.below(4) : 0,
      random.oneIn(4) ? random.size(262144) : 262144,
      random.oneIn(10) ? random.size(100_000) : 0,
    ];
    for (let mutations = this.breaks(2) ? random.between(1, 3) : 0; mutations > 0; mutations--) {
      words[random.below(words.length)] = this.nastyWord();
    }
    words.forEach((word, index) => view.setUint32(at + 4 * index, word >>> 0, true));
    const total = this.breaks(6) ? random.size(HEADER_SIZE + length) : HEADER_SIZE + length;
    this.offer(1, this.cut(at, total, random.oneIn(4) ? random.between(1, 46) : random.between(1, 3), false));
  }
}
