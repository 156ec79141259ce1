// Addresses as people write them: Ethernet, IPv4, and where a service of the host is.

import { isIPv4, isIPv6 } from 'node:net';

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

export const MAX_TCP_PORT = 65_535;

/** Whether a service of the host may be called so: its name is part of a path in the guest. */
export function isServiceName(name: string): boolean {
  return /^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$/.test(name);
}

/** Where something listens: at a TCP port, or at a Unix socket. */
export type StreamAddress = { readonly host: string; readonly port: number } | { readonly path: string };

/** `127.0.0.1:5432`, `[::1]:5432`, `db.example.org:5432`, or a path with a slash in it; `undefined` for anything else. */
export function parseStreamAddress(text: string): StreamAddress | undefined {
  if (text.startsWith('/') || text.startsWith('./') || text.startsWith('../')) {
    return text.includes('\0') ? undefined : { path: text };
  }
  const match = /^([^\s:/[\]\0]+|\[[0-9a-f:.]+\]):([0-9]{1,5})$/i.exec(text);
  if (match === null) return undefined;
  const [, place, digits] = match;
  const bracketed = place.startsWith('[');
  const host = bracketed ? place.slice(1, -1) : place;
  const port = Number(digits);
  const possible = port >= 1 && port <= MAX_TCP_PORT && (!bracketed || isIPv6(host));
  return possible ? { host, port } : undefined;
}

/** `127.0.0.1:80`, `[::1]:80`. */
export function formatHostPort(host: string, port: number): string {
  return isIPv6(host) ? `[${host}]:${port}` : `${host}:${port}`;
}
