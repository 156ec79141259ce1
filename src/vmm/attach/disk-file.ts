// Opening a disk's file or block device on the host: what it is, its lock, its size, O_DIRECT and its alignment. Main
// thread, before the guest starts.
//
// Locks are open file description locks (fcntl(2), F_OFD_SETLK) on the whole file: exclusive for a writer, shared for
// readers. So two monitors, or two disks of one, cannot write an image that another uses. QEMU takes locks of the same
// kind on some bytes and is kept away, too. They end with the descriptor, whatever happens to the process.

import { fstatSync, readSync, statSync, type Stats } from 'node:fs';
import { errorCode } from '../../config/error-code.js';
import type { HostFileSettings } from '../../devices/block/settings.js';
import { EACCES, EAGAIN, EINVAL, errnoName, SysError } from '../../platform/errno.js';
import { check, close, lastErrno, libc, O_NONBLOCK, O_RDONLY, O_RDWR, open, orErrno } from '../../platform/libc.js';
import { NativeBuffer } from '../../platform/native-buffer.js';
import { KIB, type Fd } from '../../platform/units.js';
import { VmError } from '../errors.js';
import type { AttachContext } from './attached-device.js';

const O_DIRECT = 0o40000;

const F_GETFL = 3;
const F_SETFL = 4;
const F_OFD_SETLK = 37;
const F_RDLCK = 0;
const F_WRLCK = 1;
/** struct flock { short l_type; short l_whence; off_t l_start; off_t l_len; pid_t l_pid; }; zeroes: the whole file. */
const FLOCK_SIZE = 32;

/** _IOR(0x12, 114, size_t) */
const BLKGETSIZE64 = 0x80081272;

const SMALLEST_ALIGNMENT = 512;
const LARGEST_ALIGNMENT = 64 * KIB;

export interface DiskFileOptions {
  readonly readOnly: boolean;
  /** Past the host's page cache. */
  readonly direct: boolean;
}

/**
 * Opens and locks `path`; the descriptor belongs to `resources`. `option` is what named it, for messages. The first bytes
 * of the file go into `header`; zeroes where the file is shorter. Throws VmError HOST_PATH, DISK_IN_USE or DISK_IMAGE.
 */
export function openDiskFile(
  option: string,
  path: string,
  { readOnly, direct }: DiskFileOptions,
  { resources, log }: AttachContext,
  header: Uint8Array,
): HostFileSettings {
  // Before it is opened: opening a FIFO waits, and opening some devices does something.
  checkKind(option, path, statOrThrow(option, path));
  const fd = resources.own(openOrThrow(option, path, readOnly), close);
  const stats = fstatSync(fd);
  checkKind(option, path, stats);
  lockFile(option, path, fd, readOnly, 'readonly=on', log);
  const isBlockDevice = stats.isBlockDevice();
  const size = isBlockDevice ? blockDeviceSize(fd, path) : stats.size;
  if (size === 0) {
    throw new VmError('DISK_IMAGE', `${option}: ${path} is empty`, 'name a disk image, or make one (truncate -s 1G)');
  }
  readSync(fd, header.fill(0), 0, header.length, 0);
  return { fd, path, size, readOnly, alignment: direct ? makeDirect(option, path, fd) : 1, isBlockDevice };
}

export function statOrThrow(option: string, path: string): Stats {
  try {
    return statSync(path);
  } catch (error) {
    const code = errorCode(error);
    const missing = code === 'ENOENT' || code === 'ENOTDIR';
    throw new VmError(
      'HOST_PATH',
      `${option}: ${path} ${missing ? 'does not exist' : `cannot be looked at (${code ?? String(error)})`}`,
      missing ? 'check the spelling' : 'check the permissions of the directories above it',
      error,
    );
  }
}

function checkKind(option: string, path: string, stats: Stats): void {
  if (stats.isFile() || stats.isBlockDevice()) return;
  const what = stats.isDirectory() ? 'is a directory' : 'is neither a file nor a block device';
  throw new VmError('HOST_PATH', `${option}: ${path} ${what}`, 'name a disk image or a block device');
}

function openOrThrow(option: string, path: string, readOnly: boolean): Fd {
  try {
    return open(path, (readOnly ? O_RDONLY : O_RDWR) | O_NONBLOCK);
  } catch (error) {
    if (!(error instanceof SysError)) throw error;
    const purpose = readOnly ? 'reading' : 'reading and writing';
    const mend = readOnly ? 'change its permissions' : 'change its permissions, or add readonly=on';
    throw new VmError('HOST_PATH', `${option}: ${path} cannot be opened for ${purpose} (${error.code})`, mend, error);
  }
}

/**
 * Locks a file as long as it is open; the lock keeps writers from each other and from readers. `readOnlyKey` is what makes
 * its option a reader. Throws VmError DISK_IN_USE.
 */
export function lockFile(
  option: string,
  path: string,
  fd: Fd,
  readOnly: boolean,
  readOnlyKey: string,
  log: AttachContext['log'],
): void {
  const request = new NativeBuffer(FLOCK_SIZE);
  request.view.setInt16(0, readOnly ? F_RDLCK : F_WRLCK, true);
  const result = orErrno(libc.fcntl(fd, F_OFD_SETLK, request.address));
  if (result === 0) return;
  if (result === -EAGAIN || result === -EACCES) {
    throw new VmError(
      'DISK_IN_USE',
      `${option}: ${path} is in use by another VM or program, or by another disk of this VM` +
        (readOnly ? ', which may write to it' : ''),
      readOnly ? 'end that one first' : `end that one first, or add ${readOnlyKey} to every use of the image`,
    );
  }
  log('warn', `${path}: its file system has no locks (${errnoName(-result)}): nothing keeps others from writing to it`);
}

export function blockDeviceSize(fd: Fd, path: string): number {
  const value = new NativeBuffer(8);
  check(libc.ioctl(fd, BLKGETSIZE64, value.address), 'ioctl BLKGETSIZE64', path);
  return Number(value.u64(0));
}

/** Switches the descriptor to O_DIRECT; returns the alignment that it asks for. */
function makeDirect(option: string, path: string, fd: Fd): number {
  const flags = check(libc.fcntl(fd, F_GETFL, 0), 'fcntl F_GETFL', path);
  const alignment = libc.fcntl(fd, F_SETFL, flags | O_DIRECT) < 0 ? undefined : probeAlignment(fd, path);
  if (alignment === undefined) {
    throw new VmError('DISK_IMAGE', `${option}: the file system of ${path} does not support direct=on`, 'leave it out');
  }
  return alignment;
}

/** The smallest alignment of memory, offset and length with which a read works: no interface tells it everywhere. */
function probeAlignment(fd: Fd, path: string): number | undefined {
  const buffer = new NativeBuffer(2 * LARGEST_ALIGNMENT, 2 * LARGEST_ALIGNMENT);
  for (let alignment = SMALLEST_ALIGNMENT; alignment <= LARGEST_ALIGNMENT; alignment *= 2) {
    // At an address that is a multiple of the alignment and of nothing larger.
    if (libc.pread(fd, buffer.address + alignment, alignment, 0) >= 0) return alignment;
    if (lastErrno() !== EINVAL) throw new SysError('pread', lastErrno(), path);
  }
  return undefined;
}
