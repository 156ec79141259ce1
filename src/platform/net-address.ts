// Ethernet and IPv4 addresses as people write them.

import { isIPv4 } from 'node:net';

/** Bytes of an Ethernet address. */
export const MAC_BYTES = 6;

const MAC = /^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/i;
/** IEEE 802: the first byte's low bits say to whom (1: a group) and by whom (2: assigned locally). */
const GROUP_MASK = 1;
const LOCAL_MASK = 2;

/** The six bytes of `52:54:00:12:34:56`; `undefined` when it is not of that form. */
export function parseMac(text: string): Uint8Array | undefined {
  return MAC.test(text) ? Uint8Array.from(text.split(':'), (byte) => parseInt(byte, 16)) : undefined;
}

export function formatMac(mac: Uint8Array): string {
  return Array.from(mac, (byte) => byte.toString(16).padStart(2, '0')).join(':');
}

/** A random address that no vendor gave out: unicast, locally administered. */
export function randomMac(): Uint8Array {
  const mac = crypto.getRandomValues(new Uint8Array(MAC_BYTES));
  mac[0] = (mac[0] & ~GROUP_MASK) | LOCAL_MASK;
  return mac;
}

/** The four bytes of `192.168.249.1`; `undefined` when it is not of that form. */
export function parseIpv4(text: string): Uint8Array | undefined {
  return isIPv4(text) ? Uint8Array.from(text.split('.'), Number) : undefined;
}
