// Ethernet frames for tests: made, and taken apart with their checksums looked at.

const ETHERNET = 14;
const IPV4 = 20;
const TCP = 20;
/** Where the TCP checksum is: what a virtio-net header says of it. */
export const TCP_CSUM_START = ETHERNET + IPV4;
export const TCP_CSUM_OFFSET = 16;
export const TCP_HEADERS = ETHERNET + IPV4 + TCP;

const ETH_P_IP = 0x0800;
/** IEEE 802: for experiments. */
export const ETH_P_EXPERIMENT = 0x88b5;
const IPPROTO_TCP = 6;

/** The sum of the Internet checksum (RFC 1071) over `bytes`, on top of `start`; not complemented. */
function sum(bytes: Uint8Array, start = 0): number {
  let total = start;
  for (let index = 0; index < bytes.length; index += 2) total += (bytes[index] << 8) | (bytes[index + 1] ?? 0);
  while (total > 0xffff) total = (total & 0xffff) + Math.floor(total / 0x1_0000);
  return total;
}

function pseudoHeader(ip: Uint8Array, length: number): Buffer {
  const pseudo = Buffer.alloc(12);
  pseudo.set(ip.subarray(12, 20));
  pseudo[9] = IPPROTO_TCP;
  pseudo.writeUInt16BE(length, 10);
  return pseudo;
}

export interface TcpSegment {
  readonly from: Uint8Array;
  readonly to: Uint8Array;
  readonly sequence: number;
  readonly payload: Uint8Array;
}

/** A TCP segment in IPv4 with the checksum left to whoever sends it: the field holds the sum of the pseudo-header. */
export function tcpFrame({ from, to, sequence, payload }: TcpSegment): Buffer {
  const frame = Buffer.alloc(TCP_HEADERS + payload.length);
  frame.set(to, 0);
  frame.set(from, 6);
  frame.writeUInt16BE(ETH_P_IP, 12);
  const ip = frame.subarray(ETHERNET, ETHERNET + IPV4);
  ip[0] = 0x45;
  ip.writeUInt16BE(IPV4 + TCP + payload.length, 2);
  ip.writeUInt16BE(0x4000, 6);
  ip[8] = 64;
  ip[9] = IPPROTO_TCP;
  ip.set([10, 0, 0, from[5]], 12);
  ip.set([10, 0, 0, to[5]], 16);
  ip.writeUInt16BE(0xffff & ~sum(ip), 10);
  const tcp = frame.subarray(TCP_CSUM_START);
  tcp.writeUInt16BE(1000, 0);
  tcp.writeUInt16BE(2000, 2);
  tcp.writeUInt32BE(sequence, 4);
  tcp[12] = 0x50;
  tcp[13] = 0x10;
  tcp.writeUInt16BE(4096, 14);
  tcp.writeUInt16BE(sum(pseudoHeader(ip, TCP + payload.length)), TCP_CSUM_OFFSET);
  frame.set(payload, TCP_HEADERS);
  return frame;
}

/** What is in a TCP frame; `undefined` for any other. `valid`: all its checksums are right. */
export function parseTcp(frame: Buffer): { sequence: number; payload: Buffer; valid: boolean } | undefined {
  if (frame.readUInt16BE(12) !== ETH_P_IP || frame[ETHERNET + 9] !== IPPROTO_TCP) return undefined;
  const ip = frame.subarray(ETHERNET, ETHERNET + IPV4);
  const tcp = frame.subarray(TCP_CSUM_START, ETHERNET + ip.readUInt16BE(2));
  const valid = sum(ip) === 0xffff && sum(tcp, sum(pseudoHeader(ip, tcp.length))) === 0xffff;
  return { sequence: tcp.readUInt32BE(4), payload: tcp.subarray(TCP), valid };
}

/** A frame of `length` bytes for experiments, with a number in it. */
export function numberedFrame(from: Uint8Array, to: Uint8Array, number: number, length: number): Buffer {
  const frame = Buffer.alloc(length, number & 0xff);
  frame.set(to, 0);
  frame.set(from, 6);
  frame.writeUInt16BE(ETH_P_EXPERIMENT, 12);
  frame.writeUInt32BE(number, ETHERNET);
  return frame;
}
