// Disks, and persistent memory, which is a disk that the guest maps.

import { keyedOption, optional, required } from '../keyed-option.js';
import type { OptionSpec } from '../option-spec.js';
import { byteSize, choice, integer, path, text, toggle } from '../values.js';
import { given } from './given.js';
import { RATE_LIMIT_NEEDS, rateLimiter, rateLimitKeys } from './rate-limit.js';
import { PCI_KEYS } from './refused.js';

const NO_VHOST_USER = 'Disks are driven by tsvmm itself; name the image with path=.';

export const DISK_OPTIONS: readonly OptionSpec[] = [
  keyedOption({
    name: 'disk',
    help: 'A disk; give it again, or several values, for more',
    repeatable: true,
    keys: {
      path: required(path, 'disks[].path', 'The image: a file or a block device'),
      readonly: optional(toggle, 'disks[].readonly', 'The guest cannot write (off)'),
      direct: optional(toggle, 'disks[].direct', "Past the host's page cache: O_DIRECT (off)"),
      num_queues: optional(integer, 'disks[].num_queues', 'Request queues, 1 to 16 (1)'),
      queue_size: optional(integer, 'disks[].queue_size', 'Descriptors a queue, a power of two up to 1024 (128)'),
      id: optional(text(), 'disks[].id', 'Name of the device in logs and counters (_disk0, _disk1, ...)'),
      serial: optional(
        text(),
        'disks[].serial',
        "Serial number, at most 20 bytes (made from the file's device and inode)",
      ),
      image_type: optional(
        choice({ raw: 'Raw', qcow2: 'Qcow2' }),
        'disks[].image_type',
        "Format of the image (by the file's first bytes)",
      ),
      backing_files: optional(
        toggle,
        'disks[].backing_files',
        'Whether a qcow2 image may name another file as its base (on)',
      ),
      ...rateLimitKeys('disks[]', 'Requests'),
    },
    needs: RATE_LIMIT_NEEDS,
    notSupported: {
      ...PCI_KEYS,
      vhost_user: NO_VHOST_USER,
      socket: NO_VHOST_USER,
      rate_limit_group: 'Each disk has its own limit; use bw_size, ops_size and their partners.',
      queue_affinity: 'Queues are served by the threads of --io-threads; leave this out.',
      sparse: 'Discards are always passed on to the file; leave this out.',
      lock_granularity: 'An image is locked as a whole while it is in use; leave this out.',
    },
    into: (values) => {
      const { bw_size, bw_one_time_burst, bw_refill_time, ops_size, ops_one_time_burst, ops_refill_time, ...rest } =
        values;
      const limits = { bw_size, bw_one_time_burst, bw_refill_time, ops_size, ops_one_time_burst, ops_refill_time };
      return { disks: [{ ...given(rest), path: rest.path, ...rateLimiter(limits) }] };
    },
  }),
  keyedOption({
    name: 'pmem',
    help: 'Persistent memory: a file in the address space of the guest; give it again, or several values, for more',
    repeatable: true,
    keys: {
      file: required(path, 'pmem[].file', 'The file, or a directory where a temporary one of size= bytes is made'),
      size: optional(byteSize, 'pmem[].size', "A multiple of 2M (the file's size)"),
      discard_writes: optional(toggle, 'pmem[].discard_writes', 'What the guest writes is not kept in the file (off)'),
      id: optional(text(), 'pmem[].id', 'Name of the device in logs and counters (_pmem0, _pmem1, ...)'),
    },
    notSupported: PCI_KEYS,
    into: (values) => ({ pmem: [{ ...given(values), file: values.file }] }),
  }),
];
