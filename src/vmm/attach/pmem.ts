// Persistent memory on the main thread: its file is opened, locked and mapped before the guest starts.
//
// The file's pages are guest memory above RAM. With discard_writes=on they are the guest's own from the first write on,
// and the file need only be readable. A directory stands for a temporary file in it, which has no name.
//
// Left out: a file that somebody makes shorter while the guest runs. Nothing can be in its place; the guest ends with a
// crash report when it looks there, and this process with SIGBUS when a device is to read a request from there.

import { fstatSync, ftruncateSync, openSync, unlinkSync } from 'node:fs';
import { join } from 'node:path';
import { randomBytes } from 'node:crypto';
import { errorCode } from '../../config/error-code.js';
import type { PmemConfig } from '../../config/vm-config.js';
import { PMEM_COUNTERS, pmemIdentity, type PmemSettings } from '../../devices/pmem/settings.js';
import { SysError } from '../../platform/errno.js';
import type { MemoryChunk, MemoryMap } from '../../platform/guest-memory.js';
import { close, O_NONBLOCK, O_RDONLY, O_RDWR, open } from '../../platform/libc.js';
import { mapOverSharedBuffer, unmapFromSharedBuffer } from '../../platform/mapping.js';
import { formatBytes, GIB, guestAddress, MIB, type Fd, type GuestAddress } from '../../platform/units.js';
import type { DeviceMemorySpace } from '../device-memory.js';
import { VmError } from '../errors.js';
import type { AttachContext, AttachedDevice } from './attached-device.js';
import { blockDeviceSize, lockFile, statOrThrow } from './disk-file.js';

const OPTION = '--pmem';

/** A huge page: Linux maps persistent memory by these. */
const UNIT = 2 * MIB;

/** As for RAM, an element index stays below 2^31. */
const MAX_CHUNK_SIZE = 2 * GIB;

interface OpenedFile {
  readonly fd: Fd;
  /** Bytes that the guest sees. */
  readonly size: number;
}

/**
 * Opens and maps the file, at an address from `space`; both belong to `context.resources`. Throws VmError HOST_PATH,
 * DISK_IMAGE, DISK_IN_USE or MEMORY.
 */
export function attachPmem(
  config: PmemConfig,
  index: number,
  context: AttachContext,
  space: DeviceMemorySpace,
): AttachedDevice<PmemSettings> {
  const { file: path, discard_writes: discardWrites = false } = config;
  const { fd, size } = openFile(config, context);
  const start = space.allocate(`${OPTION} file=${path}`, size);
  const memory = mapFile(fd, size, start, config, context);
  return {
    id: config.id ?? `_pmem${index}`,
    identity: pmemIdentity(start, size),
    settings: { kind: 'pmem', fd: discardWrites ? undefined : fd, path },
    counterNames: PMEM_COUNTERS,
    memory,
  };
}

function openFile(config: PmemConfig, { resources, log }: AttachContext): OpenedFile {
  const { file: path, size, discard_writes: discardWrites = false } = config;
  const stats = statOrThrow(OPTION, path);
  if (stats.isDirectory()) {
    if (size === undefined) {
      throw new VmError(
        'HOST_PATH',
        `${OPTION} file=${path} is a directory, and the size of the temporary file in it is missing`,
        'add size=, or name a file',
      );
    }
    const fd = resources.own(makeTemporaryFile(path, size), close);
    return { fd, size };
  }
  if (!stats.isFile() && !stats.isBlockDevice()) {
    throw new VmError(
      'HOST_PATH',
      `${OPTION} file=${path} is neither a file, a block device nor a directory`,
      'name one of those',
    );
  }
  const fd = resources.own(openOrThrow(path, discardWrites), close);
  lockFile(OPTION, path, fd, discardWrites, 'discard_writes=on', log);
  const fileSize = stats.isBlockDevice() ? blockDeviceSize(fd, path) : fstatSync(fd).size;
  return { fd, size: chooseSize(path, fileSize, size) };
}

function chooseSize(path: string, fileSize: number, asked: number | undefined): number {
  const whole = Math.floor(fileSize / UNIT) * UNIT;
  if (asked !== undefined && asked > fileSize) {
    throw new VmError(
      'DISK_IMAGE',
      `${OPTION} size=${formatBytes(asked)}: ${path} has ${fileSize} bytes (${formatBytes(fileSize)}) only`,
      `make it larger (truncate -s ${asked}), or ask for less`,
    );
  }
  const size = asked ?? fileSize;
  if (size !== 0 && size % UNIT === 0) return size;
  const problem =
    fileSize === 0
      ? `${path} is empty`
      : `${asked === undefined ? `${path} has ${size} bytes` : `size=${size}`}, which is no multiple of ${UNIT} (2 MiB)`;
  const smaller = whole === 0 ? '' : `, or use size=${whole}`;
  throw new VmError(
    'DISK_IMAGE',
    `${OPTION}: ${problem}`,
    `bring the file to a multiple (truncate -s ${whole + UNIT})${smaller}`,
  );
}

function openOrThrow(path: string, readOnly: boolean): Fd {
  try {
    return open(path, (readOnly ? O_RDONLY : O_RDWR) | O_NONBLOCK);
  } catch (error) {
    if (!(error instanceof SysError)) throw error;
    throw new VmError(
      'HOST_PATH',
      `${OPTION} file=${path} cannot be opened for ${readOnly ? 'reading' : 'reading and writing'} (${error.code})`,
      readOnly ? 'change its permissions' : 'change its permissions, or add discard_writes=on',
      error,
    );
  }
}

/** A file of `size` bytes in `directory` that is gone when it is closed, whatever happens to this process. */
function makeTemporaryFile(directory: string, size: number): Fd {
  const path = join(directory, `.tsvmm-pmem-${randomBytes(8).toString('hex')}`);
  let fd: Fd | undefined;
  try {
    fd = openSync(path, 'wx+', 0o600) as Fd;
    unlinkSync(path);
    ftruncateSync(fd, size);
    return fd;
  } catch (error) {
    if (fd !== undefined) close(fd);
    throw new VmError(
      'HOST_PATH',
      `${OPTION} file=${directory}: no temporary file of ${formatBytes(size)} can be made there (${errorCode(error) ?? String(error)})`,
      'name another directory, or a file',
      error,
    );
  }
}

function mapFile(
  fd: Fd,
  size: number,
  start: GuestAddress,
  { file: path, discard_writes: discardWrites = false }: PmemConfig,
  { resources }: AttachContext,
): MemoryMap {
  const kind = discardWrites ? 'private-file' : 'shared-file';
  const chunks: MemoryChunk[] = [];
  try {
    for (let offset = 0; offset < size; offset += MAX_CHUNK_SIZE) {
      const length = Math.min(MAX_CHUNK_SIZE, size - offset);
      const mapped = resources.own(mapOverSharedBuffer({ kind, fd, offset }, length, UNIT), unmapFromSharedBuffer);
      chunks.push({
        guestAddress: guestAddress(start + offset),
        size: length,
        hostAddress: mapped.address,
        buffer: mapped.buffer,
        bufferOffset: mapped.offset,
        backing: { kind: 'device' },
      });
    }
  } catch (error) {
    throw new VmError(
      'MEMORY',
      `${OPTION} file=${path}: ${formatBytes(size)} of it cannot be mapped (${error instanceof SysError ? error.code : String(error)})`,
      'name a file on another file system, or ask for less',
      error,
    );
  }
  return chunks;
}
