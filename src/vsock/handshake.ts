// The line with which a host client asks for a guest port, `CONNECT <port>\n`, and the answer, `OK <port>\n`. Parsing only.
//
// The dialect is Firecracker's, which Cloud Hypervisor speaks too: upper case, one space, decimal digits, a line feed.

const PREFIX = 'CONNECT ';
const LINE_FEED = 0x0a;
const DIGIT_0 = 0x30;
const DIGIT_9 = 0x39;
const MAX_PORT = 0xffff_ffff;

/** Enough for the longest valid line ("CONNECT 4294967295\n" has 19 bytes); a client that says more is refused. */
export const HANDSHAKE_LIMIT = 32;

/** The line is not complete yet. */
export const HANDSHAKE_PARTIAL = 'partial';
/** No continuation makes this a valid line. */
export const HANDSHAKE_INVALID = 'invalid';

export interface HandshakeRequest {
  readonly port: number;
  /** Bytes of the line, its line feed included; what follows belongs to the guest. */
  readonly length: number;
}

/**
 * Looks at the first `count` bytes a client sent. Invalid as soon as a byte makes it so: a client that speaks another
 * protocol, and waits for an answer, gets one.
 */
export function parseHandshake(
  bytes: Uint8Array,
  count: number,
): HandshakeRequest | typeof HANDSHAKE_PARTIAL | typeof HANDSHAKE_INVALID {
  const end = Math.min(count, HANDSHAKE_LIMIT);
  let port = 0;
  for (let index = 0; index < end; index++) {
    const byte = bytes[index];
    if (index < PREFIX.length) {
      if (byte !== PREFIX.charCodeAt(index)) return HANDSHAKE_INVALID;
      continue;
    }
    if (byte === LINE_FEED) return index === PREFIX.length ? HANDSHAKE_INVALID : { port, length: index + 1 };
    if (byte < DIGIT_0 || byte > DIGIT_9) return HANDSHAKE_INVALID;
    port = port * 10 + (byte - DIGIT_0);
    if (port > MAX_PORT) return HANDSHAKE_INVALID;
  }
  return end === HANDSHAKE_LIMIT ? HANDSHAKE_INVALID : HANDSHAKE_PARTIAL;
}

const ANSWER_PREFIX = 'OK ';

/** Enough for any answer: `OK ` and what a monitor calls its port. */
export const ANSWER_LIMIT = 32;

/** Looks at the first `count` bytes that a monitor answered: the length of the line, its line feed included. */
export function parseAnswer(
  bytes: Uint8Array,
  count: number,
): number | typeof HANDSHAKE_PARTIAL | typeof HANDSHAKE_INVALID {
  const end = Math.min(count, ANSWER_LIMIT);
  for (let index = 0; index < end; index++) {
    const byte = bytes[index];
    if (index < ANSWER_PREFIX.length) {
      if (byte !== ANSWER_PREFIX.charCodeAt(index)) return HANDSHAKE_INVALID;
      continue;
    }
    if (byte === LINE_FEED) return index === ANSWER_PREFIX.length ? HANDSHAKE_INVALID : index + 1;
    if (byte < DIGIT_0 || byte > DIGIT_9) return HANDSHAKE_INVALID;
  }
  return end === ANSWER_LIMIT ? HANDSHAKE_INVALID : HANDSHAKE_PARTIAL;
}
