// The control queue: virtio 1.2, section 5.1.6.5. Commands that the device offers are executed, all others refused.
//
// Runs in the I/O worker. A command is a chain: class, command and data for the device to read, one byte for the answer.
// Left out, because their features are not offered: receive filters, MAC and VLAN tables, announcements, RSS.

import type { GuestMemory } from '../../platform/guest-memory.js';
import { DescriptorChain } from '../virtio/chain.js';
import { BAD_CHAIN, BROKEN as BROKEN_RING, EMPTY, type SplitQueue } from '../virtio/queue.js';
import { BROKEN, IDLE, WORKED, type PathResult } from './path.js';

// struct virtio_net_ctrl { u8 class; u8 command; u8 data[]; u8 ack; }
const COMMAND_HEADER = 2;
const VIRTIO_NET_OK = 0;
const VIRTIO_NET_ERR = 1;

const VIRTIO_NET_CTRL_MQ = 4;
const VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET = 0;
/** le16 virtqueue_pairs. */
const PAIRS_BYTES = 2;

const VIRTIO_NET_CTRL_GUEST_OFFLOADS = 5;
const VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET = 0;
/** le64 offloads. */
const OFFLOADS_BYTES = 8;

/** No command that is executed is longer; of others only the beginning matters. */
const MAX_COMMAND = COMMAND_HEADER + OFFLOADS_BYTES;

/** Commands a turn takes at most. */
const BATCH_COMMANDS = 16;

/** What the driver can ask for; each says whether it was done. */
export interface ControlCommands {
  setPairs(pairs: number): boolean;
  /** `low` and `high` are the halves of the mask of features. */
  setGuestOffloads(low: number, high: number): boolean;
}

export class ControlQueue {
  private readonly queue: SplitQueue;
  private readonly chain: DescriptorChain;
  private readonly commands: ControlCommands;
  private readonly note: (what: string, detail?: number) => void;
  private readonly bytes = new Uint8Array(MAX_COMMAND);
  private readonly view = new DataView(this.bytes.buffer);
  private readonly answer = new Uint8Array(1);

  constructor(
    memory: GuestMemory,
    queue: SplitQueue,
    commands: ControlCommands,
    note: (what: string, detail?: number) => void,
  ) {
    this.queue = queue;
    this.chain = new DescriptorChain(memory);
    this.commands = commands;
    this.note = note;
  }

  /** Executes what waits. Used entries are staged; the caller publishes them. */
  pump(): PathResult {
    const { queue, chain } = this;
    for (let count = 0; count < BATCH_COMMANDS; count++) {
      const result = queue.pop(chain);
      if (result === BROKEN_RING) return BROKEN;
      if (result === EMPTY) return count > 0 ? WORKED : IDLE;
      if (result === BAD_CHAIN || chain.writableBytes === 0) {
        this.note('control command without room for an answer dropped', chain.head);
        queue.addUsed(chain.head, 0);
        continue;
      }
      this.answer[0] = this.execute(chain) ? VIRTIO_NET_OK : VIRTIO_NET_ERR;
      queue.addUsed(chain.head, chain.copyToWritable(0, this.answer, 1));
    }
    return WORKED;
  }

  publish(): boolean {
    return this.queue.publish();
  }

  suppressNotifications(): void {
    this.queue.suppressNotifications();
  }

  /** Before the loop sleeps: asks for notifications, and returns whether there is work already. */
  arm(): boolean {
    return this.queue.armNotifications();
  }

  private execute(chain: DescriptorChain): boolean {
    const { bytes, view } = this;
    const length = chain.copyFromReadable(0, bytes, MAX_COMMAND);
    const [group, command] = bytes;
    const data = length - COMMAND_HEADER;
    if (group === VIRTIO_NET_CTRL_MQ && command === VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET && data >= PAIRS_BYTES) {
      return this.commands.setPairs(view.getUint16(COMMAND_HEADER, true));
    }
    if (
      group === VIRTIO_NET_CTRL_GUEST_OFFLOADS &&
      command === VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET &&
      data >= OFFLOADS_BYTES
    ) {
      return this.commands.setGuestOffloads(
        view.getUint32(COMMAND_HEADER, true),
        view.getUint32(COMMAND_HEADER + 4, true),
      );
    }
    return false;
  }
}
