// The checksum that the MP table and the ACPI tables have in common. Main thread.

/** What makes the sum of all bytes 0 modulo 256, the checksum byte itself being 0 so far. */
export function checksum(bytes: Uint8Array): number {
  return -bytes.reduce((sum, byte) => sum + byte, 0) & 0xff;
}
