// Ethernet and IPv4 addresses as people write them.

/** Bytes of an Ethernet address. */
export const MAC_BYTES = 6;

const MAC = /^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/i;
const IPV4 = /^(0|[1-9]\d{0,2})(\.(0|[1-9]\d{0,2})){3}$/;
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

/** Whether `mac` can be an interface's own: neither a group's nor all zeroes. */
export function isStationMac(mac: Uint8Array): boolean {
  return (mac[0] & GROUP_MASK) === 0 && mac.some((byte) => byte !== 0);
}

/** A random address that no vendor gave out: unicast, locally administered. */
export function randomMac(): Uint8Array {
  const mac = crypto.getRandomValues(new Uint8Array(MAC_BYTES));
  mac[0] = (mac[0] & ~GROUP_MASK) | LOCAL_MASK;
  return mac;
}

/** The four bytes of `192.168.249.1`; `undefined` when it is not of that form. */
export function parseIpv4(text: string): Uint8Array | undefined {
  if (!IPV4.test(text)) return undefined;
  const bytes = text.split('.').map(Number);
  return bytes.every((byte) => byte <= 255) ? Uint8Array.from(bytes) : undefined;
}

/** Whether `mask` is ones and then zeroes, as `255.255.255.0` is. */
export function isNetmask(mask: Uint8Array): boolean {
  const bits = Array.from(mask, (byte) => byte.toString(2).padStart(8, '0')).join('');
  return !bits.includes('01');
}
