// The header of every virtio-vsock packet: virtio 1.2, section 5.10.6.
//
// Runs in the I/O worker of the device. One PacketHeader is a scratch record that is filled, used and filled again:
// nothing is allocated per packet. The host is little-endian like the wire (x86-64 only), so words need no swapping.
//
// Directions are said once: rx is host to guest, tx is guest to host, as the driver names its queues.

import type { DescriptorChain } from '../devices/virtio/chain.js';

// struct virtio_vsock_hdr {
//   le64 src_cid; le64 dst_cid; le32 src_port; le32 dst_port; le32 len;
//   le16 type; le16 op; le32 flags; le32 buf_alloc; le32 fwd_cnt;
// }
export const HEADER_SIZE = 44;
export const HEADER_WORDS = HEADER_SIZE / 4;
const SRC_CID = 0;
const DST_CID = 2;
const SRC_PORT = 4;
const DST_PORT = 5;
const LEN = 6;
const TYPE_AND_OP = 7;
const FLAGS = 8;
const BUF_ALLOC = 9;
const FWD_CNT = 10;

/** Where `len` is among the words of a header, for a sender that changes nothing else from packet to packet. */
export const HEADER_LEN_WORD = LEN;
/** Where `flags` is, for the last packet of a message. */
export const HEADER_FLAGS_WORD = FLAGS;

export const VIRTIO_VSOCK_TYPE_STREAM = 1;
export const VIRTIO_VSOCK_TYPE_SEQPACKET = 2;

export const VIRTIO_VSOCK_OP_REQUEST = 1;
export const VIRTIO_VSOCK_OP_RESPONSE = 2;
export const VIRTIO_VSOCK_OP_RST = 3;
export const VIRTIO_VSOCK_OP_SHUTDOWN = 4;
export const VIRTIO_VSOCK_OP_RW = 5;
export const VIRTIO_VSOCK_OP_CREDIT_UPDATE = 6;
export const VIRTIO_VSOCK_OP_CREDIT_REQUEST = 7;

/** Flags of a SHUTDOWN: its sender will receive, or send, no more. */
export const VIRTIO_VSOCK_SHUTDOWN_RCV_MASK = 1;
export const VIRTIO_VSOCK_SHUTDOWN_SEND_MASK = 2;
export const SHUTDOWN_BOTH_MASK = VIRTIO_VSOCK_SHUTDOWN_RCV_MASK | VIRTIO_VSOCK_SHUTDOWN_SEND_MASK;

/** Flag of an RW packet of a SEQPACKET connection: a message ends with it (5.10.6.6). */
export const VIRTIO_VSOCK_SEQ_EOM_MASK = 1;
// VIRTIO_VSOCK_SEQ_EOR (2) marks a record, several messages long. Unix sockets take MSG_EOR and do not deliver it, so
// there is nobody to tell, nor anybody to hear it from.

/** The well-known CID of the host (5.10.4). */
export const VMADDR_CID_HOST = 2;

/** A packet header in private memory. 32-bit fields read as unsigned Numbers. */
export class PacketHeader {
  readonly bytes: Uint8Array;
  readonly words: Uint32Array;

  constructor() {
    const memory = new ArrayBuffer(HEADER_SIZE);
    this.bytes = new Uint8Array(memory);
    this.words = new Uint32Array(memory);
  }

  /** Copies the header out of the device-readable part of `chain`: once, and only this copy is used from then on. */
  copyFrom(chain: DescriptorChain): void {
    if (!chain.copyWordsFromReadable(this.words)) chain.copyFromReadable(0, this.bytes, HEADER_SIZE);
  }

  get srcCid(): number {
    return this.words[SRC_CID];
  }

  get dstCid(): number {
    return this.words[DST_CID];
  }

  /** The upper halves of both CIDs are reserved and zero (5.10.4). */
  get reservedCidBits(): number {
    return this.words[SRC_CID + 1] | this.words[DST_CID + 1];
  }

  get srcPort(): number {
    return this.words[SRC_PORT];
  }

  get dstPort(): number {
    return this.words[DST_PORT];
  }

  get len(): number {
    return this.words[LEN];
  }

  get type(): number {
    return this.words[TYPE_AND_OP] & 0xffff;
  }

  get op(): number {
    return this.words[TYPE_AND_OP] >>> 16;
  }

  get flags(): number {
    return this.words[FLAGS];
  }

  get bufAlloc(): number {
    return this.words[BUF_ALLOC];
  }

  get fwdCnt(): number {
    return this.words[FWD_CNT];
  }

  /** Who it is from and to. */
  setAddresses(srcCid: number, srcPort: number, dstCid: number, dstPort: number): void {
    const { words } = this;
    words[SRC_CID] = srcCid;
    words[SRC_CID + 1] = 0;
    words[DST_CID] = dstCid;
    words[DST_CID + 1] = 0;
    words[SRC_PORT] = srcPort;
    words[DST_PORT] = dstPort;
  }

  /** What it says. `fwdCnt` may be any integer: it is taken modulo 2^32. */
  setOperation(type: number, op: number, flags: number, len: number, bufAlloc: number, fwdCnt: number): void {
    const { words } = this;
    words[LEN] = len;
    words[TYPE_AND_OP] = type | (op << 16);
    words[FLAGS] = flags;
    words[BUF_ALLOC] = bufAlloc;
    words[FWD_CNT] = fwdCnt;
  }
}
