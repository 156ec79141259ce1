// RST packets that wait for a receive buffer. Their connections are gone already, or never were.
//
// Bounded by whoever fills it: the tx path stops taking packets while there are RESET_LIMIT of them, and beyond that
// each live connection can add one.

/** With this many waiting, no more packets are taken from the guest until it posts receive buffers. */
export const RESET_LIMIT = 1024;

const WORDS = 4;
const INITIAL_CAPACITY = 64;

/** Whom a RST goes to. */
export class ResetQueue {
  guestPort = 0;
  peerPort = 0;
  peerCid = 0;
  type = 0;
  private words = new Uint32Array(INITIAL_CAPACITY * WORDS);
  private head = 0;
  private count = 0;

  get length(): number {
    return this.count;
  }

  push(guestPort: number, peerPort: number, peerCid: number, type: number): void {
    if (this.count * WORDS === this.words.length) this.grow();
    const at = ((this.head + this.count) * WORDS) % this.words.length;
    this.words[at] = guestPort;
    this.words[at + 1] = peerPort;
    this.words[at + 2] = peerCid;
    this.words[at + 3] = type;
    this.count++;
  }

  /** Takes the oldest entry into the fields. There is one. */
  shift(): void {
    const at = this.head * WORDS;
    this.guestPort = this.words[at];
    this.peerPort = this.words[at + 1];
    this.peerCid = this.words[at + 2];
    this.type = this.words[at + 3];
    this.head = (this.head + 1) % (this.words.length / WORDS);
    this.count--;
  }

  clear(): void {
    this.head = 0;
    this.count = 0;
  }

  private grow(): void {
    const larger = new Uint32Array(this.words.length * 2);
    const split = this.head * WORDS;
    larger.set(this.words.subarray(split), 0);
    larger.set(this.words.subarray(0, split), this.words.length - split);
    this.words = larger;
    this.head = 0;
  }
}
