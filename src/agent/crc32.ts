// CRC-32 of ISO 3309, as in zip and PNG: four bytes at a time. Node has one of its own only since 20.15.

const TABLES = makeTables();

function makeTables(): Uint32Array[] {
  const tables = [0, 1, 2, 3].map(() => new Uint32Array(256));
  for (let index = 0; index < 256; index++) {
    let crc = index;
    for (let bit = 0; bit < 8; bit++) crc = (crc & 1) === 0 ? crc >>> 1 : (crc >>> 1) ^ 0xedb88320;
    tables[0][index] = crc;
  }
  for (let index = 0; index < 256; index++) {
    for (let table = 1; table < 4; table++) {
      const before = tables[table - 1][index];
      tables[table][index] = (before >>> 8) ^ tables[0][before & 0xff];
    }
  }
  return tables;
}

/** The checksum of what `crc` is the checksum of, followed by `bytes`; 0 is that of nothing. */
export function crc32(bytes: Uint8Array, crc = 0): number {
  const [first, second, third, fourth] = TABLES;
  let value = ~crc;
  let index = 0;
  for (const whole = bytes.length - 3; index < whole; index += 4) {
    value ^= bytes[index] | (bytes[index + 1] << 8) | (bytes[index + 2] << 16) | (bytes[index + 3] << 24);
    value =
      fourth[value & 0xff] ^ third[(value >>> 8) & 0xff] ^ second[(value >>> 16) & 0xff] ^ first[(value >>> 24) & 0xff];
  }
  for (; index < bytes.length; index++) value = (value >>> 8) ^ first[(value ^ bytes[index]) & 0xff];
  return ~value >>> 0;
}
