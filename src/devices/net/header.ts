// The header before each frame: virtio 1.2, section 5.1.6, and its checks where a guest wrote it.
//
// Runs in the I/O worker. The header of a frame that a guest sends is copied once; the copy is checked and is what the
// kernel gets, so a guest that rewrites its own gains nothing. What the kernel checks by itself (that a checksum can be
// where the header says, that the frame is of the protocol that is to be cut) is left to it.

import { NativeBuffer } from '../../platform/native-buffer.js';
import { TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6, TUN_F_TSO_ECN, TUN_F_UFO, VNET_HEADER_SIZE } from '../../platform/tap.js';
import type { DescriptorChain } from '../virtio/chain.js';

/*
 * struct virtio_net_hdr {
 *   u8 flags; u8 gso_type; le16 hdr_len; le16 gso_size; le16 csum_start; le16 csum_offset; le16 num_buffers;
 * };
 */
export const HEADER_SIZE = VNET_HEADER_SIZE;
export const HEADER_FLAGS = 0;
const HEADER_GSO_TYPE = 1;
const HEADER_GSO_SIZE = 4;
const HEADER_CSUM_START = 6;
const HEADER_CSUM_OFFSET = 8;
export const HEADER_NUM_BUFFERS = 10;

const VIRTIO_NET_HDR_F_NEEDS_CSUM = 1;

const VIRTIO_NET_HDR_GSO_NONE = 0;
const VIRTIO_NET_HDR_GSO_TCPV4 = 1;
const VIRTIO_NET_HDR_GSO_UDP = 3;
const VIRTIO_NET_HDR_GSO_TCPV6 = 4;
const VIRTIO_NET_HDR_GSO_ECN = 0x80;

/** Bytes of a checksum in TCP and UDP. */
const CSUM_BYTES = 2;

const ETHERNET_HEADER_SIZE = 14;
/** Two 802.1Q tags, one in the other, make an Ethernet header at most this much longer. */
const VLAN_TAGS_SIZE = 8;
const MAX_IP_PACKET = 65_535;

/** The smallest frame there is, and the largest, whether it is one segment or is yet to be cut into some. */
export const MIN_FRAME = ETHERNET_HEADER_SIZE;
export const MAX_FRAME = ETHERNET_HEADER_SIZE + VLAN_TAGS_SIZE + MAX_IP_PACKET;

export class TxHeader {
  private readonly memory = new NativeBuffer(HEADER_SIZE);
  private readonly words = new Uint32Array(this.memory.bytes.buffer);

  get address(): number {
    return this.memory.address;
  }

  /** Copies the header of a chain whose device-readable part is at least as long. */
  copyFrom(chain: DescriptorChain): void {
    if (!chain.copyWordsFromReadable(this.words)) chain.copyFromReadable(0, this.memory.bytes, HEADER_SIZE);
  }

  /**
   * What is wrong with the header of a frame of `frameBytes` by a guest that may leave `offloads` (TUN_F_…) to the
   * device; `undefined` when nothing is.
   */
  fault(frameBytes: number, offloads: number): string | undefined {
    const { view, bytes } = this.memory;
    // 5.1.6.2.1: the driver sets no other flag; the kernel is not to see what it might come to mean.
    const needsChecksum = (bytes[HEADER_FLAGS] & VIRTIO_NET_HDR_F_NEEDS_CSUM) !== 0;
    bytes[HEADER_FLAGS] = needsChecksum ? VIRTIO_NET_HDR_F_NEEDS_CSUM : 0;
    if (needsChecksum) {
      if ((offloads & TUN_F_CSUM) === 0) return 'a checksum to be filled in, which was not negotiated';
      const end = view.getUint16(HEADER_CSUM_START, true) + view.getUint16(HEADER_CSUM_OFFSET, true) + CSUM_BYTES;
      if (end > frameBytes) return 'a checksum beyond the end of its frame';
    }
    const gsoType = bytes[HEADER_GSO_TYPE];
    if (gsoType === VIRTIO_NET_HDR_GSO_NONE) return undefined;
    const needed = offloadOf(gsoType & ~VIRTIO_NET_HDR_GSO_ECN);
    if (needed === undefined) return 'a segmentation of no known kind';
    const ecn = (gsoType & VIRTIO_NET_HDR_GSO_ECN) === 0 ? 0 : TUN_F_TSO_ECN;
    if (((needed | ecn) & ~offloads) !== 0) return 'a segmentation that was not negotiated';
    if (ecn !== 0 && needed === TUN_F_UFO) return 'a segmentation of no known kind';
    if (view.getUint16(HEADER_GSO_SIZE, true) === 0) return 'segments of no bytes';
    return undefined;
  }
}

function offloadOf(gsoType: number): number | undefined {
  switch (gsoType) {
    case VIRTIO_NET_HDR_GSO_TCPV4:
      return TUN_F_TSO4;
    case VIRTIO_NET_HDR_GSO_TCPV6:
      return TUN_F_TSO6;
    case VIRTIO_NET_HDR_GSO_UDP:
      return TUN_F_UFO;
    default:
      return undefined;
  }
}
