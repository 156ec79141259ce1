// Connections by who talks to whom: an open-addressing hash table over typed arrays.
//
// Runs in the I/O worker. A lookup happens for every packet of the guest: it allocates nothing and, whatever ports the
// guest chooses, takes O(1) on average, since the hash is seeded.
//
// The key is the whole tuple (guest port, peer port, peer CID, socket type), so connections that the guest began and
// those that the host began never share an entry by accident, and removing one never frees the other.

import type { Connection } from './connection.js';

const INITIAL_BUCKETS = 64;
/** Grow beyond three quarters full: linear probing stays short. */
const MAX_LOAD = 0.75;
const EMPTY_TYPE = 0;

export class ConnectionTable {
  private readonly seed: number;
  private mask = 0;
  private count = 0;
  private guestPorts = new Uint32Array(0);
  private peerPorts = new Uint32Array(0);
  private peerCids = new Uint32Array(0);
  /** The socket type, or EMPTY_TYPE for a free bucket. */
  private types = new Uint16Array(0);
  private connections: (Connection | undefined)[] = [];

  /** `seed` is random, so that a guest cannot choose ports that collide; tests fix it. */
  constructor(seed = Math.floor(Math.random() * 0x1_0000_0000)) {
    this.seed = seed;
    this.allocate(INITIAL_BUCKETS);
  }

  get size(): number {
    return this.count;
  }

  find(guestPort: number, peerPort: number, peerCid: number, type: number): Connection | undefined {
    return this.connections[this.bucketOf(guestPort, peerPort, peerCid, type)];
  }

  /** Adds `connection`, whose tuple is not in the table. */
  add(connection: Connection): void {
    if (this.count + 1 > (this.mask + 1) * MAX_LOAD) this.grow();
    this.count++;
    this.insert(connection);
  }

  /** Removes exactly this connection; another one with the same tuple stays. Returns whether it was there. */
  remove(connection: Connection): boolean {
    let hole = this.bucketOf(connection.guestPort, connection.peerPort, connection.peerCid, connection.type);
    if (this.connections[hole] !== connection) return false;
    this.count--;
    // Backward-shift deletion: later entries of the run that would no longer be found move into the hole.
    let next = (hole + 1) & this.mask;
    while (this.types[next] !== EMPTY_TYPE) {
      const home = this.home(this.guestPorts[next], this.peerPorts[next], this.peerCids[next], this.types[next]);
      if (((next - home) & this.mask) >= ((next - hole) & this.mask)) {
        this.guestPorts[hole] = this.guestPorts[next];
        this.peerPorts[hole] = this.peerPorts[next];
        this.peerCids[hole] = this.peerCids[next];
        this.types[hole] = this.types[next];
        this.connections[hole] = this.connections[next];
        hole = next;
      }
      next = (next + 1) & this.mask;
    }
    this.types[hole] = EMPTY_TYPE;
    this.connections[hole] = undefined;
    return true;
  }

  /** Every connection, in no particular order: a copy, so that the visitor may remove them. */
  all(): Connection[] {
    return this.connections.filter((connection) => connection !== undefined);
  }

  private allocate(buckets: number): void {
    this.mask = buckets - 1;
    this.guestPorts = new Uint32Array(buckets);
    this.peerPorts = new Uint32Array(buckets);
    this.peerCids = new Uint32Array(buckets);
    this.types = new Uint16Array(buckets);
    this.connections = new Array<Connection | undefined>(buckets).fill(undefined);
  }

  private grow(): void {
    const old = this.all();
    this.allocate((this.mask + 1) * 2);
    for (const connection of old) this.insert(connection);
  }

  private insert(connection: Connection): void {
    const { guestPort, peerPort, peerCid, type } = connection;
    const bucket = this.bucketOf(guestPort, peerPort, peerCid, type);
    this.guestPorts[bucket] = guestPort;
    this.peerPorts[bucket] = peerPort;
    this.peerCids[bucket] = peerCid;
    this.types[bucket] = type;
    this.connections[bucket] = connection;
  }

  /** The bucket that holds the tuple, or the free one where it would go. */
  private bucketOf(guestPort: number, peerPort: number, peerCid: number, type: number): number {
    let bucket = this.home(guestPort, peerPort, peerCid, type);
    while (
      this.types[bucket] !== EMPTY_TYPE &&
      (this.guestPorts[bucket] !== guestPort ||
        this.peerPorts[bucket] !== peerPort ||
        this.peerCids[bucket] !== peerCid ||
        this.types[bucket] !== type)
    ) {
      bucket = (bucket + 1) & this.mask;
    }
    return bucket;
  }

  private home(guestPort: number, peerPort: number, peerCid: number, type: number): number {
    // Multiply and fold, as in MurmurHash3's finaliser: every bit of every field reaches the low bits.
    let hash = Math.imul(guestPort ^ this.seed, 0x85eb_ca6b);
    hash = Math.imul(hash ^ (hash >>> 13) ^ peerPort, 0xc2b2_ae35);
    hash = Math.imul(hash ^ (hash >>> 16) ^ peerCid ^ (type << 24), 0x27d4_eb2f);
    return (hash ^ (hash >>> 15)) & this.mask;
  }
}
