// Reads a cpio archive ("newc") strictly, as the tests want to see it: by its own code, not by what wrote it.

export interface CpioEntry {
  readonly name: string;
  readonly inode: number;
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly nlink: number;
  readonly mtime: number;
  readonly device: readonly [major: number, minor: number];
  readonly content: Buffer;
}

/** The entries up to the trailer. Throws Error for anything that is not as the format has it. */
export function readCpio(archive: Buffer): CpioEntry[] {
  const entries: CpioEntry[] = [];
  let at = 0;
  for (;;) {
    if (archive.toString('latin1', at, at + 6) !== '070701') throw new Error(`no header at ${at}`);
    const field = (index: number): number => {
      const text = archive.toString('latin1', at + 6 + index * 8, at + 14 + index * 8);
      if (!/^[0-9a-f]{8}$/.test(text)) throw new Error(`field ${index} at ${at} is ${text}`);
      return Number.parseInt(text, 16);
    };
    const nameSize = field(11);
    const name = archive.toString('latin1', at + 110, at + 110 + nameSize - 1);
    if (archive[at + 110 + nameSize - 1] !== 0) throw new Error(`the name at ${at} has no NUL`);
    const start = (at + 110 + nameSize + 3) & ~3;
    const end = start + field(6);
    if (end > archive.length) throw new Error(`${name} is cut short`);
    if (name === 'TRAILER!!!') {
      if (archive.subarray(end).some((byte) => byte !== 0)) throw new Error('there is something behind the trailer');
      return entries;
    }
    entries.push({
      name,
      inode: field(0),
      mode: field(1),
      uid: field(2),
      gid: field(3),
      nlink: field(4),
      mtime: field(5),
      device: [field(9), field(10)],
      content: archive.subarray(start, end),
    });
    at = (end + 3) & ~3;
  }
}
