// An encoder for the part of AML that our DSDT consists of: every function returns the bytes of one term, and terms
// nest by being arguments. Main thread, before the VM starts.
//
// Specification: ACPI 6.5, chapter 20 (ACPI Machine Language). Left out: everything the DSDT does not use, such as
// buffer fields, mutexes, loops and packages of more than 255 elements.

/** The encoding of one term, or of several in a row. */
export type Aml = Uint8Array;

/** Opcodes (20.3); two bytes where the first is the extended opcode prefix. */
const ZERO_OP = 0x00;
const ONE_OP = 0x01;
const NAME_OP = 0x08;
const BYTE_PREFIX = 0x0a;
const WORD_PREFIX = 0x0b;
const DWORD_PREFIX = 0x0c;
const STRING_PREFIX = 0x0d;
const QWORD_PREFIX = 0x0e;
const SCOPE_OP = 0x10;
const BUFFER_OP = 0x11;
const PACKAGE_OP = 0x12;
const METHOD_OP = 0x14;
const DUAL_NAME_PREFIX = 0x2e;
const MULTI_NAME_PREFIX = 0x2f;
const OP_REGION_OP = [0x5b, 0x80] as const;
const FIELD_OP = [0x5b, 0x81] as const;
const DEVICE_OP = [0x5b, 0x82] as const;
const LOCAL0_OP = 0x60;
const STORE_OP = 0x70;
const AND_OP = 0x7b;
const NOTIFY_OP = 0x86;
const IF_OP = 0xa0;

const NULL_NAME = 0x00;
/** A target that takes nothing: the result is only the expression's value. */
const NO_TARGET = 0x00;
const REGION_SPACE_SYSTEM_IO = 0x01;
/** FieldFlags: byte accesses, no global lock, bits that are not written are written as zeroes. */
const FIELD_BYTE_ACCESS = 0x01;
const FIELD_WRITE_AS_ZEROS = 0x40;
const METHOD_ARGUMENTS_MAX = 7;
const METHOD_SERIALIZED = 0x08;

const NAME_SEGMENT = /^[A-Z_][A-Z0-9_]{0,3}$/;
const SEGMENT_LENGTH = 4;

export function concat(...parts: readonly (Aml | readonly number[])[]): Aml {
  return Buffer.concat(parts.map((part) => (part instanceof Uint8Array ? part : Uint8Array.from(part))));
}

/**
 * PkgLength (20.2.4): the number of bytes from the first of its own to the end of a package whose content has
 * `contentLength`. One byte holds up to 63; else two bits of the first count the others, and the low four bits come
 * first.
 */
export function packageLength(contentLength: number): Aml {
  if (contentLength + 1 < 1 << 6) return Uint8Array.of(contentLength + 1);
  for (let more = 1; more <= 3; more++) {
    const total = contentLength + 1 + more;
    if (total >= 1 << (4 + 8 * more)) continue;
    const bytes = new Uint8Array(1 + more);
    bytes[0] = (more << 6) | (total & 0xf);
    for (let index = 0; index < more; index++) bytes[1 + index] = (total >>> (4 + 8 * index)) & 0xff;
    return bytes;
  }
  throw new RangeError(`an AML package of ${contentLength} bytes`);
}

/**
 * NameString (20.2.2): segments of up to four characters, separated by dots, behind `\` for the root or any number of
 * `^` for parents.
 */
export function nameString(path: string): Aml {
  const [, prefix, rest] = /^(\\|\^*)(.*)$/s.exec(path) ?? [];
  const segments = rest === '' ? [] : rest.split('.');
  if (path === '' || segments.length > 0xff || !segments.every((segment) => NAME_SEGMENT.test(segment))) {
    throw new RangeError(`"${path}" is not an AML name`);
  }
  return concat(Buffer.from(prefix, 'latin1'), segmentCount(segments.length), ...segments.map(nameSegment));
}

function segmentCount(count: number): number[] {
  if (count === 0) return [NULL_NAME];
  if (count === 1) return [];
  return count === 2 ? [DUAL_NAME_PREFIX] : [MULTI_NAME_PREFIX, count];
}

function nameSegment(segment: string): Aml {
  return Buffer.from(segment.padEnd(SEGMENT_LENGTH, '_'), 'latin1');
}

/** The shortest encoding of an integer from 0 to Number.MAX_SAFE_INTEGER (20.2.3). */
export function integer(value: number): Aml {
  if (!Number.isSafeInteger(value) || value < 0) throw new RangeError(`${value} is not an AML integer`);
  if (value === 0) return Uint8Array.of(ZERO_OP);
  if (value === 1) return Uint8Array.of(ONE_OP);
  if (value <= 0xff) return Uint8Array.of(BYTE_PREFIX, value);
  const bytes = Buffer.alloc(9);
  if (value <= 0xffff) {
    bytes[0] = WORD_PREFIX;
    bytes.writeUInt16LE(value, 1);
    return bytes.subarray(0, 3);
  }
  if (value <= 0xffff_ffff) {
    bytes[0] = DWORD_PREFIX;
    bytes.writeUInt32LE(value, 1);
    return bytes.subarray(0, 5);
  }
  bytes[0] = QWORD_PREFIX;
  bytes.writeBigUInt64LE(BigInt(value), 1);
  return bytes;
}

/** A string of ASCII characters other than NUL. */
export function string(text: string): Aml {
  for (let index = 0; index < text.length; index++) {
    const code = text.charCodeAt(index);
    if (code === 0 || code > 0x7f) throw new RangeError(`"${text}" is not an AML string`);
  }
  return concat([STRING_PREFIX], Buffer.from(text, 'latin1'), [0]);
}

/**
 * EISAID(): a Plug and Play id such as "PNP0501" as the integer that ACPI wants (19.3.4): three letters of five bits
 * each, then four hexadecimal digits, most significant byte first.
 */
export function eisaId(id: string): Aml {
  if (!/^[A-Z]{3}[0-9A-F]{4}$/.test(id)) throw new RangeError(`"${id}" is not an EISA id`);
  const letter = (index: number): number => id.charCodeAt(index) - 0x40;
  const vendor = (letter(0) << 10) | (letter(1) << 5) | letter(2);
  const bytes = Buffer.alloc(4);
  bytes.writeUInt16BE(vendor);
  bytes.writeUInt16BE(Number.parseInt(id.slice(3), 16), 2);
  return integer(bytes.readUInt32LE());
}

/** Buffer () { ... } with its size as the buffer's length. */
export function buffer(bytes: Uint8Array): Aml {
  return block([BUFFER_OP], integer(bytes.length), bytes);
}

/** Package () { ... } of at most 255 elements. */
export function packageOf(...elements: readonly Aml[]): Aml {
  if (elements.length > 0xff) throw new RangeError(`an AML package of ${elements.length} elements`);
  return block([PACKAGE_OP], [elements.length], ...elements);
}

/** Name (path, value) */
export function name(path: string, value: Aml): Aml {
  return concat([NAME_OP], nameString(path), value);
}

/** Scope (path) { ... } */
export function scope(path: string, ...terms: readonly Aml[]): Aml {
  return block([SCOPE_OP], nameString(path), ...terms);
}

/** Device (path) { ... } */
export function device(path: string, ...terms: readonly Aml[]): Aml {
  return block(DEVICE_OP, nameString(path), ...terms);
}

/** Method (path, argumentCount, Serialized) { ... } */
export function serializedMethod(path: string, argumentCount: number, ...terms: readonly Aml[]): Aml {
  if (!(argumentCount >= 0 && argumentCount <= METHOD_ARGUMENTS_MAX))
    throw new RangeError(`${argumentCount} arguments`);
  return block([METHOD_OP], nameString(path), [argumentCount | METHOD_SERIALIZED], ...terms);
}

/** OperationRegion (path, SystemIO, port, length) */
export function ioRegion(path: string, port: number, length: number): Aml {
  return concat(OP_REGION_OP, nameString(path), [REGION_SPACE_SYSTEM_IO], integer(port), integer(length));
}

/** Field (region, ByteAcc, NoLock, WriteAsZeros) { segment, bits, ... } from bit 0 of the region on. */
export function byteField(region: string, ...units: readonly (readonly [segment: string, bits: number])[]): Aml {
  // A NamedField's PkgLength is the bare number of bits, without the bytes that encode it.
  const fields = units.map(([segment, bits]) => {
    if (!NAME_SEGMENT.test(segment) || !(bits >= 1 && bits < 1 << 6)) throw new RangeError(`field ${segment}, ${bits}`);
    return concat(nameSegment(segment), [bits]);
  });
  return block(FIELD_OP, nameString(region), [FIELD_BYTE_ACCESS | FIELD_WRITE_AS_ZEROS], ...fields);
}

/** Local0 to Local7 */
export function local(index: number): Aml {
  if (!(index >= 0 && index <= 7)) throw new RangeError(`Local${index}`);
  return Uint8Array.of(LOCAL0_OP + index);
}

/** Store (value, target) */
export function store(value: Aml, target: Aml): Aml {
  return concat([STORE_OP], value, target);
}

/** And (left, right) as an expression. */
export function and(left: Aml, right: Aml): Aml {
  return concat([AND_OP], left, right, [NO_TARGET]);
}

/** Notify (object, value) */
export function notify(object: string, value: number): Aml {
  return concat([NOTIFY_OP], nameString(object), integer(value));
}

/** If (condition) { ... } */
export function ifTrue(condition: Aml, ...terms: readonly Aml[]): Aml {
  return block([IF_OP], condition, ...terms);
}

/** An opcode whose content begins with its PkgLength. */
function block(opcode: readonly number[], ...content: readonly (Aml | readonly number[])[]): Aml {
  const bytes = concat(...content);
  return concat(opcode, packageLength(bytes.length), bytes);
}
