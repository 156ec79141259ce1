// Allocates guest RAM, mapped over SharedArrayBuffers in chunks. Main thread.
//
//   0 ............ 3 GiB | device hole | 4 GiB ............
//   chunk 0  chunk 1 ... |             | more chunks
//
// One allocation is at once V8 views in every thread and KVM memory slots. The keys of --memory say what is behind it:
//
//   (nothing)      private anonymous pages, transparent huge pages where they fit unless thp=off
//   shared=on      a memory file, which other processes can map
//   hugepages=on   a memory file of pages from the host's huge page pool, shared too
//   mergeable=on   lets KSM merge equal pages. KSM looks at private pages only: the rules refuse it with the two above,
//                  where Cloud Hypervisor takes it and nothing comes of it
//   prefault=on    every page is allocated before the guest starts

import { totalmem } from 'node:os';
import { DEVICE_HOLE_END, DEVICE_HOLE_START } from '../boot/layout.js';
import type { MemoryConfig } from '../config/vm-config.js';
import { EINVAL, ENOMEM, SysError } from '../platform/errno.js';
import { GuestMemory, type MemoryChunk, type MemoryMap } from '../platform/guest-memory.js';
import { defaultHugePageSize, hugePagePool, hugePageSizes } from '../platform/huge-pages.js';
import { check, close, libc } from '../platform/libc.js';
import {
  createMemfd,
  mapOverSharedBuffer,
  remap,
  unmapFromSharedBuffer,
  type PageSource,
} from '../platform/mapping.js';
import {
  adviseHugePages,
  allowMerging,
  discardPages,
  populatePages,
  type MemoryBacking,
} from '../platform/memory-backing.js';
import { formatBytes, GIB, guestAddress, KIB, MIB, PAGE_SIZE, type Fd, type HostAddress } from '../platform/units.js';
import { VmError } from './errors.js';
import { type Extent, extentsWithin } from './snapshot/extents.js';

/** Element indices into a chunk's byte view stay below 2^31, on V8's fast path. */
const MAX_CHUNK_SIZE = 2 * GIB;

/** A transparent huge page of x86-64. */
const THP_SIZE = 2 * MIB;
/** Below are boot tables and holes: there a huge page would be all that a very small guest has, and mostly unused. */
const THP_START = 2 * MIB;

/** Extents of a diff from this size on are mapped, so that clones share them; smaller ones are read, which is quicker. */
const MAPPED_EXTENT_SIZE = 256 * KIB;
/** The kernel bounds the mappings of a process, and every extent splits one in three. */
const MAX_MAPPED_EXTENTS = 64;

/** The memory of a saved machine. */
export interface SavedMemory {
  /** All of it, or that of the snapshot that `diff` is a diff of. */
  readonly fd: Fd;
  /** Another such file, of which the extents count. */
  readonly diff: { readonly fd: Fd; readonly extents: readonly Extent[] } | undefined;
}

interface Range {
  readonly gpa: number;
  readonly size: number;
}

/** Where `size` bytes of RAM go: pieces of at most 2 GiB, none of them in the device hole. */
export function planMemory(size: number): Range[] {
  const ranges: Range[] = [];
  const addRange = (start: number, length: number): void => {
    for (let done = 0; done < length; done += MAX_CHUNK_SIZE) {
      ranges.push({ gpa: start + done, size: Math.min(MAX_CHUNK_SIZE, length - done) });
    }
  };
  addRange(0, Math.min(size, DEVICE_HOLE_START));
  addRange(DEVICE_HOLE_END, Math.max(0, size - DEVICE_HOLE_START));
  return ranges;
}

/** Guest RAM and the file behind it, if any. `close` releases it once no thread and no VM uses it any more. */
export class AllocatedMemory {
  readonly map: MemoryMap;
  /** The memory file; none behind private memory. */
  readonly fd: Fd | undefined;
  /** The memory file of the snapshot that pages still come from. */
  private readonly saved: Fd | undefined;
  private readonly config: MemoryConfig;
  private readonly pageSize: number;
  private closed = false;

  /**
   * `config.size` is a multiple of 4096. With `saved`, RAM begins as that is: private memory is mapped from its file, which
   * costs the same whatever its size; other kinds are read from it. Throws VmError MEMORY when the host cannot hold it, or
   * not in that way.
   */
  constructor(config: MemoryConfig, saved?: SavedMemory) {
    const { size } = config;
    if (size > totalmem()) {
      throw new VmError(
        'MEMORY',
        `--memory size=${formatBytes(size)} is more than the ${formatBytes(totalmem())} this host has`,
        'ask for less',
      );
    }
    this.config = config;
    const hugePageSize = config.hugepages === true ? chooseHugePageSize(config) : undefined;
    this.pageSize = hugePageSize ?? PAGE_SIZE;
    const chunks: MemoryChunk[] = [];
    this.map = chunks;
    try {
      const inFile = config.shared === true || hugePageSize !== undefined;
      this.fd = inFile ? createMemfd('tsvmm-guest-ram', size, hugePageSize) : undefined;
      this.saved = saved !== undefined && !inFile ? (check(libc.dup(saved.fd), 'dup memory file') as Fd) : undefined;
      const mapped = this.saved === undefined ? [] : largest(saved?.diff?.extents ?? []);
      let offset = 0;
      for (const range of planMemory(size)) {
        chunks.push(this.allocate(range, offset, extentsWithin(mapped, offset, range.size)));
        offset += range.size;
      }
      if (saved?.diff !== undefined) this.mapExtents(saved.diff.fd);
      this.prepare();
      if (saved !== undefined && inFile) this.load(saved.fd, [{ offset: 0, length: size }]);
      if (saved?.diff !== undefined) {
        this.load(
          saved.diff.fd,
          saved.diff.extents.filter((extent) => !mapped.includes(extent)),
        );
      }
    } catch (error) {
      this.close();
      throw this.failure(error);
    }
  }

  /**
   * Fills RAM with zeroes and gives its pages back to the host, as at the start. Nothing may use it meanwhile. Throws
   * VmError MEMORY when the host does not have the huge pages any more.
   */
  clear(): void {
    try {
      for (const chunk of this.map) {
        const result = discardPages(chunk, 0, chunk.size);
        if (result < 0) throw new SysError('discard guest memory', -result);
        // A hole loses its reservation in the pool; mapping the file again makes a new one.
        if (this.pageSize > PAGE_SIZE)
          remap({ address: chunk.hostAddress, size: chunk.size }, pageSource(chunk.backing));
      }
      if (this.config.prefault === true) this.populate();
    } catch (error) {
      throw this.failure(error);
    }
  }

  close(): void {
    if (this.closed) return;
    this.closed = true;
    for (const chunk of this.map) unmapFromSharedBuffer({ address: chunk.hostAddress, size: chunk.size });
    if (this.fd !== undefined) close(this.fd);
    if (this.saved !== undefined) close(this.saved);
  }

  private allocate(range: Range, offset: number, replaced: readonly Extent[]): MemoryChunk {
    const { fd, saved, pageSize } = this;
    let backing: MemoryBacking = { kind: 'anonymous' };
    if (fd !== undefined) backing = { kind: 'memory-file', fd, offset, pageSize };
    else if (saved !== undefined) backing = { kind: 'saved-file', fd: saved, offset, replaced };
    // Host and guest addresses agree modulo 2 MiB: else no huge page of the host fits the guest.
    const alignment = range.size >= THP_SIZE ? Math.max(pageSize, THP_SIZE) : pageSize;
    const mapped = mapOverSharedBuffer(pageSource(backing), range.size, alignment);
    return {
      guestAddress: guestAddress(range.gpa),
      size: range.size,
      hostAddress: mapped.address,
      buffer: mapped.buffer,
      bufferOffset: mapped.offset,
      backing,
    };
  }

  /** What the configuration says of how the kernel treats the pages. */
  private prepare(): void {
    const { mergeable, thp, prefault } = this.config;
    if (this.fd === undefined) {
      for (const chunk of this.map) {
        const from = thp === false ? 0 : Math.min(Math.max(0, THP_START - chunk.guestAddress), chunk.size);
        adviseHugePages((chunk.hostAddress + from) as HostAddress, chunk.size - from, thp !== false);
        if (mergeable === true) allowMerging(chunk.hostAddress, chunk.size);
      }
    }
    if (prefault === true) this.populate();
  }

  /** Maps what each chunk's backing says is another file's, which is `fd`. */
  private mapExtents(fd: Fd): void {
    for (const { hostAddress, backing } of this.map) {
      if (backing.kind !== 'saved-file') continue;
      for (const { offset, length } of backing.replaced) {
        const mapped = { address: (hostAddress + offset) as HostAddress, size: length };
        remap(mapped, { kind: 'private-file', fd, offset: backing.offset + offset });
      }
    }
  }

  /** Reads extents of a snapshot's memory file into RAM. */
  private load(fd: Fd, extents: readonly Extent[]): void {
    const memory = new GuestMemory(this.map);
    let start = 0;
    for (const { guestAddress: gpa, size } of this.map) {
      for (const { offset, length } of extentsWithin(extents, start, size)) {
        memory.readFileInto(fd, start + offset, gpa + offset, length);
      }
      start += size;
    }
  }

  private populate(): void {
    for (const { hostAddress, buffer, bufferOffset, size } of this.map) {
      populatePages(hostAddress, new Uint8Array(buffer, bufferOffset, size), this.pageSize);
    }
  }

  private failure(error: unknown): VmError {
    if (error instanceof VmError) return error;
    const { config, pageSize } = this;
    const { errno, call } = error instanceof SysError ? error : { errno: 0, call: '' };
    if (pageSize > PAGE_SIZE && errno === ENOMEM) return hugePagesMissing(config.size, pageSize, error);
    if (errno === EINVAL && call.includes('MERGEABLE')) {
      return new VmError(
        'MEMORY',
        '--memory mergeable=on: this kernel cannot merge pages (KSM)',
        'leave it out',
        error,
      );
    }
    return new VmError('MEMORY', `${formatBytes(config.size)} of guest memory cannot be mapped`, 'ask for less', error);
  }
}

/** Those that are mapped. */
function largest(extents: readonly Extent[]): readonly Extent[] {
  return extents
    .filter(({ length }) => length >= MAPPED_EXTENT_SIZE)
    .sort((one, other) => other.length - one.length)
    .slice(0, MAX_MAPPED_EXTENTS);
}

function pageSource(backing: MemoryBacking): PageSource {
  switch (backing.kind) {
    case 'memory-file':
      return { kind: 'shared-file', fd: backing.fd, offset: backing.offset };
    case 'saved-file':
      return { kind: 'private-file', fd: backing.fd, offset: backing.offset };
    case 'anonymous':
    case 'device':
      return { kind: 'anonymous' };
  }
}

/** The size of huge pages that memory is to be made of. Throws VmError MEMORY when the host has none such. */
function chooseHugePageSize({ size, hugepage_size: asked }: MemoryConfig): number {
  const sizes = hugePageSizes();
  const pageSize = asked ?? defaultHugePageSize();
  if (pageSize === undefined || sizes.length === 0) {
    throw new VmError('MEMORY', '--memory hugepages=on: this kernel has no huge pages', 'leave it out');
  }
  if (!sizes.includes(pageSize)) {
    const others = sizes.map((other) => formatBytes(other)).join(' or ');
    throw new VmError(
      'MEMORY',
      `--memory hugepage_size=${formatBytes(pageSize)}: this host has no huge pages of that size`,
      `use ${others}`,
    );
  }
  if (size % pageSize !== 0) {
    throw new VmError(
      'MEMORY',
      `--memory size=${formatBytes(size)} is not a multiple of the huge page size, ${formatBytes(pageSize)}`,
      `use ${formatBytes(Math.ceil(size / pageSize) * pageSize)}`,
    );
  }
  return pageSize;
}

function hugePagesMissing(size: number, pageSize: number, cause: unknown): VmError {
  const { pages, available, sizeFile } = hugePagePool(pageSize);
  const needed = size / pageSize;
  // At least one more than there are: the ENOMEM says so, whatever was freed since.
  const wanted = pages + Math.max(1, needed - available);
  const mend = pageSize === defaultHugePageSize() ? `sysctl vm.nr_hugepages=${wanted}` : `echo ${wanted} > ${sizeFile}`;
  return new VmError(
    'MEMORY',
    `--memory hugepages=on: ${needed} huge pages of ${formatBytes(pageSize)} are needed, and of the host's ${pages} ` +
      `${available} are free`,
    `make more, for instance with \`${mend}\`, or ask for less`,
    cause,
  );
}
