// What the boot code needs of guest RAM. Main thread, before the VM starts.
//
// An interface of this folder's own, so that boot is tested over a plain fake; GuestMemory (src/platform) satisfies it.

/** A piece of guest-physical address space. */
export interface MemoryRange {
  readonly gpa: number;
  /** Bytes. */
  readonly size: number;
}

/** Guest RAM while a guest is being loaded. Every call throws when it would touch anything outside RAM. */
export interface BootMemory {
  /** Bytes of RAM in all. */
  readonly size: number;
  /** Where RAM is: ascending, not overlapping, the first at address 0. */
  readonly ranges: readonly MemoryRange[];
  write(gpa: number, bytes: Uint8Array): void;
  /** Absent when the memory is known to be fresh, that is all zeroes. */
  zero?(gpa: number, length: number): void;
  /** pread(2) of exactly `length` bytes straight into RAM; throws on an I/O error and when the file ends before. */
  readFileInto(fd: number, fileOffset: number, gpa: number, length: number): void;
}
