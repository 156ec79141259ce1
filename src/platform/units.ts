// Branded numeric types and size units shared by the whole project. No thread of its own, no state.

declare const brand: unique symbol;

/** A `T` that only the functions named after `B` hand out: mixing two kinds of number is a type error. */
export type Brand<T, B extends string> = T & { readonly [brand]: B };

/** An open file descriptor of this process (>= 0). */
export type Fd = Brand<number, 'Fd'>;

/** An address in this process. 47 bits are in use on x86-64, so a Number holds it exactly. */
export type HostAddress = Brand<number, 'HostAddress'>;

/** A guest-physical address. At most 52 bits, so a Number holds it exactly. */
export type GuestAddress = Brand<number, 'GuestAddress'>;

/** A kernel thread id, as gettid(2) gives it. */
export type ThreadId = Brand<number, 'ThreadId'>;

export const KIB = 1024;
export const MIB = 1024 * KIB;
export const GIB = 1024 * MIB;
export const PAGE_SIZE = 4096;

/** 2^32, to split and join 64-bit quantities held in Numbers. */
export const TWO_POW_32 = 0x1_0000_0000;

/** Marks `value` as a guest-physical address; the caller answers for its meaning. */
export function guestAddress(value: number): GuestAddress {
  return value as GuestAddress;
}

/** `value` rounded up to a multiple of `alignment` (any positive integer). */
export function alignUp(value: number, alignment: number): number {
  return Math.ceil(value / alignment) * alignment;
}

/** A byte count for people: `4 GiB`, `1.5 MiB`, `17 bytes`. */
export function formatBytes(bytes: number): string {
  const units = [
    [GIB, 'GiB'],
    [MIB, 'MiB'],
    [KIB, 'KiB'],
  ] as const;
  for (const [size, name] of units) {
    if (bytes >= size) return `${Number((bytes / size).toFixed(2))} ${name}`;
  }
  return `${bytes} bytes`;
}

/** An address or register value for people: `0x7fff0000`. */
export function hex(value: number | bigint): string {
  return `0x${value.toString(16)}`;
}
