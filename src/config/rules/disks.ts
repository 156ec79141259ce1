// Rules for disks and persistent memory. What is inside an image, and whether somebody else has it locked, is looked at
// when it is opened.

import { MIB } from '../../platform/units.js';
import type { DiskConfig, PmemConfig } from '../vm-config.js';
import { checkCreatable, checkImage, isDirectory, regularFileSize } from './files.js';
import { checkCount, checkMultiple, checkPowerOfTwo } from './numbers.js';
import { checkRateLimiter } from './rate-limit.js';
import type { Complain } from './rule.js';

const MAX_QUEUES = 16;
/** Two descriptors are the least that a request with data needs when they are indirect, and what Linux asks for. */
const MIN_QUEUE_SIZE = 2;
export const MAX_QUEUE_SIZE = 1024;

/** virtio 1.2, 5.2.6.1: what GET_ID answers has 20 bytes. */
const MAX_SERIAL_BYTES = 20;

/** A huge page: what the guest's mapping of persistent memory is aligned to (virtio 1.2, 5.19; Linux's nd_pmem). */
const PMEM_UNIT = 2 * MIB;

export function checkDisks(disks: readonly DiskConfig[], complain: Complain): void {
  disks.forEach((disk, index) => {
    const field = `disks[${index}]`;
    checkQueueSize(complain, `${field}.queue_size`, disk.queue_size);
    if (disk.num_queues !== undefined) {
      const range = { min: 1, max: MAX_QUEUES, unit: 'queues' };
      checkCount(complain, `${field}.num_queues`, disk.num_queues, range);
    }
    if (disk.serial !== undefined) checkSerialNumber(complain, `${field}.serial`, disk.serial);
    if (disk.backing_files !== undefined && disk.image_type === 'Raw') {
      complain(`${field}.backing_files`, disk.backing_files, {
        code: 'CONFLICT',
        problem: 'a raw image names no other file',
        mend: 'Leave backing_files out.',
      });
    }
    if (disk.rate_limiter_config !== undefined) {
      checkRateLimiter(complain, `${field}.rate_limiter_config`, disk.rate_limiter_config, 'requests');
    }
    checkImage(complain, `${field}.path`, disk.path, {
      write: disk.readonly !== true,
      mend: 'Change its permissions, or make the disk read-only with readonly.',
    });
  });
}

export function checkQueueSize(complain: Complain, field: string, size: number | undefined): void {
  if (size === undefined) return;
  checkCount(complain, field, size, { min: MIN_QUEUE_SIZE, max: MAX_QUEUE_SIZE, unit: 'descriptors' });
  checkPowerOfTwo(complain, field, size);
}

function checkSerialNumber(complain: Complain, field: string, serial: string): void {
  const length = Buffer.byteLength(serial);
  if (length > MAX_SERIAL_BYTES) {
    complain(field, serial, {
      code: 'TOO_LONG',
      problem: `the serial number has ${length} bytes, and the device can tell ${MAX_SERIAL_BYTES}`,
      mend: 'Shorten it.',
    });
  }
  // The guest shows it in paths and rules of udev, and a NUL would end it.
  if (!/^[\x21-\x7e]+$/.test(serial)) {
    complain(field, serial, {
      code: 'WRONG_TYPE',
      problem: serial === '' ? 'the serial number is empty' : 'a serial number has printable ASCII characters only',
      mend: 'Use letters and digits, or leave it out.',
    });
  }
}

export function checkPmem(pmem: readonly PmemConfig[], complain: Complain): void {
  pmem.forEach(({ file, size, discard_writes }, index) => {
    const field = `pmem[${index}]`;
    if (size !== undefined) checkPmemSize(complain, `${field}.size`, size);
    if (isDirectory(file)) {
      if (size === undefined) {
        complain(`${field}.size`, size, {
          code: 'MISSING_KEY',
          problem: 'missing, and the file is a directory, where a temporary file of that size is made',
          mend: 'Give the size, or name a file.',
        });
      }
      checkCreatable(complain, `${field}.file`, file, file);
      return;
    }
    checkImage(complain, `${field}.file`, file, {
      write: discard_writes !== true,
      mend: 'Change its permissions, or keep the writes out of it with discard_writes.',
    });
    checkPmemFile(complain, `${field}.file`, file, size);
  });
}

function checkPmemSize(complain: Complain, field: string, size: number): void {
  if (size <= 0 || !Number.isSafeInteger(size)) {
    complain(field, size, {
      code: 'OUT_OF_RANGE',
      problem: `${size} is not a size that memory can have`,
      mend: `Use a multiple of ${PMEM_UNIT} (2M).`,
    });
  }
  checkMultiple(complain, field, size, PMEM_UNIT, 'the huge page size');
}

function checkPmemFile(complain: Complain, field: string, file: string, wanted: number | undefined): void {
  const size = regularFileSize(file);
  // A block device has its size elsewhere; it is asked when it is opened.
  if (size === undefined) return;
  if (wanted !== undefined && wanted > size) {
    complain(field, file, {
      code: 'UNUSABLE_FILE',
      problem: `the file has ${size} bytes, and ${wanted} of them are to be mapped`,
      mend: `Enlarge it (truncate -s ${wanted}), or leave the size out.`,
    });
  }
  if (wanted === undefined && (size === 0 || size % PMEM_UNIT !== 0)) {
    complain(field, file, {
      code: 'UNUSABLE_FILE',
      problem:
        size === 0 ? 'the file is empty' : `the file has ${size} bytes, which are not a multiple of ${PMEM_UNIT}`,
      mend: `Make it a multiple of 2 MiB (truncate -s ${Math.max(1, Math.ceil(size / PMEM_UNIT)) * 2}M).`,
    });
  }
}
