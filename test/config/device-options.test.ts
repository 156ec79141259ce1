// Disks, persistent memory, network cards and the small devices: what is accepted, and every refusal with its message.

import { linkSync, mkdtempSync, rmSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import type { ConfigErrorCode } from '../../src/config/config-error.js';
import { usesAcpi } from '../../src/boot/command-line.js';
import { MAX_VIRTIO_DEVICES } from '../../src/config/rules/machine-wide.js';
import { saysAcpiOff } from '../../src/config/rules/payload.js';
import { validateVmConfig } from '../../src/config/validate.js';
import { VIRTIO_GSIS } from '../../src/vmm/interrupt-lines.js';
import { expectRefusal, expectRefusedConfig, parse } from './support.js';

const MIB = 1024 ** 2;

let folder = '';
let image = '';
let other = '';

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'tsvmm-devices-'));
  image = join(folder, 'a.img');
  other = join(folder, 'b.img');
  for (const path of [image, other]) writeFileSync(path, 'not looked into here');
});

afterAll(() => {
  rmSync(folder, { recursive: true });
});

describe('--disk', () => {
  test('all of its keys', () => {
    const keys =
      'readonly=on,direct=on,num_queues=2,queue_size=256,id=root,serial=S1,image_type=qcow2,backing_files=off';
    const limits = 'bw_size=1M,bw_one_time_burst=2M,bw_refill_time=100,ops_size=50,ops_refill_time=1000';
    expect(parse({ disk: `path=${image},${keys},${limits}` }).disks).toEqual([
      {
        path: image,
        readonly: true,
        direct: true,
        num_queues: 2,
        queue_size: 256,
        id: 'root',
        serial: 'S1',
        image_type: 'Qcow2',
        backing_files: false,
        rate_limiter_config: {
          bandwidth: { size: MIB, one_time_burst: 2 * MIB, refill_time: 100 },
          ops: { size: 50, refill_time: 1000 },
        },
      },
    ]);
  });

  test('several, in the order in which they were given', () => {
    const disks = parse({ disk: [`path=${other}`, `path=${image},readonly=off`] }).disks;
    expect(disks).toEqual([{ path: other }, { path: image, readonly: false }]);
  });

  test.each<[keys: string, code: ConfigErrorCode, message: string]>([
    ['num_queues=0', 'OUT_OF_RANGE', '--disk num_queues: 0 queues are too few. Use 1 to 16.'],
    ['num_queues=17', 'OUT_OF_RANGE', '17 queues are too many'],
    ['queue_size=1', 'OUT_OF_RANGE', '--disk queue_size: 1 descriptors are too few. Use 2 to 1024.'],
    ['queue_size=2048', 'OUT_OF_RANGE', '2048 descriptors are too many'],
    ['queue_size=100', 'OUT_OF_RANGE', '--disk queue_size: 100 is not a power of two. Use 64 or 128.'],
    ['serial=123456789012345678901', 'TOO_LONG', '--disk serial: the serial number has 21 bytes'],
    ['serial="a b"', 'WRONG_TYPE', 'printable ASCII'],
    ['serial=""', 'WRONG_TYPE', '--disk serial: the serial number is empty'],
    ['id=""', 'MISSING_VALUE', '--disk id: the name is empty'],
    ['id=a/b', 'WRONG_TYPE', '--disk id: "a/b" has other characters'],
    ['id=_vsock', 'DUPLICATE', '--disk id: two devices are called "_vsock"'],
    [`id=${'x'.repeat(65)}`, 'TOO_LONG', '--disk id: the name has more than 64 bytes'],
    ['image_type=vhd', 'WRONG_TYPE', '--disk image_type: "vhd" is not one of raw, qcow2'],
    ['image_type=raw,backing_files=on', 'CONFLICT', '--disk backing_files: a raw image names no other file'],
    ['bw_size=0,bw_refill_time=100', 'OUT_OF_RANGE', '--disk bw_size: 0 bytes would let nothing through, ever'],
    ['ops_size=0,ops_refill_time=100', 'OUT_OF_RANGE', '--disk ops_size: 0 requests would let nothing through'],
    ['bw_size=1M,bw_refill_time=0', 'OUT_OF_RANGE', '--disk bw_refill_time: 0 milliseconds are no limit at all'],
    ['bw_size=-1,bw_refill_time=1', 'OUT_OF_RANGE', '--disk bw_size: -1 bytes are too few'],
    [
      'bw_size=1M',
      'MISSING_KEY',
      '--disk bw_refill_time: missing, and bw_size needs it. Write bw_refill_time=N as well',
    ],
    ['ops_refill_time=100', 'MISSING_KEY', '--disk ops_size: missing, and ops_refill_time needs it'],
    ['bw_one_time_burst=1M', 'MISSING_KEY', '--disk bw_size: missing, and bw_one_time_burst needs it'],
    ['vhost_user=on', 'NOT_SUPPORTED', '--disk vhost_user: not supported by tsvmm'],
    ['rate_limit_group=g', 'NOT_SUPPORTED', 'Each disk has its own limit; use bw_size, ops_size'],
    ['readonyl=on', 'UNKNOWN_KEY', 'Did you mean readonly?'],
  ])('%s is refused', (keys, code, message) => {
    expectRefusal({ disk: `path=${image},${keys}` }, code, message);
  });

  test('a path that is none, or not of an image', () => {
    expectRefusal({ disk: 'readonly=on' }, 'MISSING_KEY', '--disk path: missing. Write --disk path=PATH.');
    expectRefusal({ disk: 'path=""' }, 'MISSING_VALUE', '--disk path: the path is empty');
    expectRefusal({ disk: `path=${folder}/none` }, 'NOT_FOUND', '--disk path: ');
    expectRefusal({ disk: `path=${folder}` }, 'UNUSABLE_FILE', 'is a directory, neither a file nor a block device');
    expectRefusal({ disk: 'path=/dev/null' }, 'UNUSABLE_FILE', '"/dev/null" is a character device');
  });

  test('which of several a message is about', () => {
    const second = (keys: string): { disk: string[] } => ({ disk: [`path=${image}`, `path=${other},${keys}`] });
    // From the grammar, from the values, from the rules.
    expectRefusal(second('num_queues'), 'MISSING_VALUE', '--disk num_queues (second): no value given');
    expectRefusal(second('num_queues=x'), 'WRONG_TYPE', '--disk num_queues (second): "x" is not a whole number');
    expectRefusal(second('num_queues=99'), 'OUT_OF_RANGE', '--disk num_queues (second): 99 queues are too many');
    const limited = second('ops_size=1,ops_refill_time=0');
    expectRefusal(limited, 'OUT_OF_RANGE', '--disk ops_refill_time (second): 0 milliseconds');
    expectRefusal({ disk: [`path=${image}`, 'path="'] }, 'SYNTAX', '--disk (second): a double quote is not closed');
    const eleven = Array.from(
      { length: 11 },
      (_, index) => `path=${image},readonly=on,num_queues=${index < 10 ? 1 : 0}`,
    );
    expectRefusal({ disk: eleven }, 'OUT_OF_RANGE', '--disk num_queues (number 11): 0 queues');
  });

  test('one image twice, if anybody writes to it, whatever it is called', () => {
    const link = join(folder, 'link.img');
    const hard = join(folder, 'hard.img');
    symlinkSync(image, link);
    linkSync(image, hard);
    for (const path of [image, link, hard, `${folder}/../${folder.split('/').at(-1) ?? ''}/a.img`]) {
      const again = { disk: [`path=${image},readonly=on`, `path=${path}`] };
      expectRefusal(
        again,
        'DUPLICATE',
        `--disk path (second): ${JSON.stringify(path)} is a disk already, and this use`,
      );
    }
    expect(parse({ disk: [`path=${image},readonly=on`, `path=${link},readonly=on`] }).disks).toHaveLength(2);
    expectRefusal({ disk: [`path=${image}`, `path=${link},readonly=on`] }, 'DUPLICATE', 'and that use writes to it');
    expectRefusal({ disk: [`path=${image}`, `path=${link}`] }, 'DUPLICATE', 'and both write to it');
    expectRefusal({ disk: `path=${image}`, serial: `file=${image}` }, 'DUPLICATE', '--serial file: ');
    expectRefusal({ disk: `path=${image}`, kernel: image }, 'DUPLICATE', 'is the kernel already');
  });

  test('a library user names the element', () => {
    const disks = [{ path: image }, { path: other, queue_size: 3 }];
    expectRefusedConfig({ disks }, 'OUT_OF_RANGE', 'disks[1].queue_size: 3 is not a power of two');
    expectRefusedConfig({ disks: [{ path: image, num_queues: 1.5 }] }, 'WRONG_TYPE', 'disks[0].num_queues: 1.5 is not');
    expect(validateVmConfig({ disks: [{ path: image, id: undefined }] }).disks).toEqual([{ path: image }]);
  });
});

describe('--pmem', () => {
  test('a file of a whole number of huge pages', () => {
    const file = join(folder, 'pmem');
    writeFileSync(file, '');
    expectRefusal({ pmem: `file=${file}` }, 'UNUSABLE_FILE', '--pmem file: the file is empty');
    truncateSync(file, 3 * MIB);
    expectRefusal({ pmem: `file=${file}` }, 'UNUSABLE_FILE', 'Make it a multiple of 2 MiB (truncate -s 4M).');
    expectRefusal({ pmem: `file=${file},size=4M` }, 'UNUSABLE_FILE', 'the file has 3145728 bytes, and 4194304 of them');
    expect(parse({ pmem: `file=${file},size=2M` }).pmem).toEqual([{ file, size: 2 * MIB }]);
    truncateSync(file, 4 * MIB);
    expect(parse({ pmem: `file=${file},discard_writes=on,id=data` }).pmem).toEqual([
      { file, discard_writes: true, id: 'data' },
    ]);
  });

  test('a directory, for temporary files of a size', () => {
    const pmem = [`file=${folder},size=2M`, `file=${folder},size=4M`];
    expect(parse({ pmem }).pmem).toEqual([
      { file: folder, size: 2 * MIB },
      { file: folder, size: 4 * MIB },
    ]);
    expectRefusal({ pmem: `file=${folder}` }, 'MISSING_KEY', '--pmem size: missing, and the file is a directory');
  });

  test('sizes that cannot be', () => {
    expectRefusal({ pmem: `file=${folder},size=3M` }, 'OUT_OF_RANGE', '--pmem size: 3145728 bytes (3 MiB) are not');
    expectRefusal({ pmem: `file=${folder},size=0` }, 'OUT_OF_RANGE', '--pmem size: 0 is not a size');
    expectRefusal({ pmem: 'size=2M' }, 'MISSING_KEY', '--pmem file: missing');
  });
});

describe('--net', () => {
  test('all of its keys', () => {
    const keys =
      'tap=tap0,ip=192.168.249.1,mask=255.255.255.0,mac=12:34:56:78:9A:bc,host_mac=12:34:56:78:9a:bd,mtu=1500,' +
      'num_queues=4,queue_size=512,id=lan,offload_tso=off,offload_ufo=off,offload_csum=off';
    expect(parse({ net: `${keys},ops_size=5,ops_one_time_burst=9,ops_refill_time=10` }).net).toEqual([
      {
        tap: 'tap0',
        ip: '192.168.249.1',
        mask: '255.255.255.0',
        mac: '12:34:56:78:9A:bc',
        host_mac: '12:34:56:78:9a:bd',
        mtu: 1500,
        num_queues: 4,
        queue_size: 512,
        id: 'lan',
        offload_tso: false,
        offload_ufo: false,
        offload_csum: false,
        rate_limiter_config: { ops: { size: 5, one_time_burst: 9, refill_time: 10 } },
      },
    ]);
  });

  test.each<[keys: string, code: ConfigErrorCode, message: string]>([
    ['tap=""', 'MISSING_VALUE', '--net tap: the name of the tap is empty'],
    ['tap=sixteencharacter', 'TOO_LONG', '--net tap: "sixteencharacter" has 16 bytes'],
    ['tap=a/b', 'WRONG_TYPE', '--net tap: "a/b" is not the name of an interface'],
    ['tap="a b"', 'WRONG_TYPE', 'is not the name of an interface'],
    ['tap=tap%d', 'WRONG_TYPE', 'is not the name of an interface'],
    ['tap=..', 'WRONG_TYPE', 'is not the name of an interface'],
    ['ip=192.168.1', 'WRONG_TYPE', '--net ip: "192.168.1" is not an IPv4 address. Write it like'],
    ['ip=192.168.1.1/24', 'WRONG_TYPE', 'Write 192.168.1.1, and the network in mask.'],
    ['ip=fe80::1', 'WRONG_TYPE', 'is not an IPv4 address'],
    ['mask=255.255.255.0', 'CONFLICT', '--net mask: a mask belongs to an address'],
    ['ip=10.0.0.1,mask=255.0.255.0', 'WRONG_TYPE', '--net mask: 255.0.255.0 is not a run of ones, then zeros'],
    ['ip=10.0.0.1,mask=0.0.0.0', 'WRONG_TYPE', '--net mask: 0.0.0.0 is not a run of ones'],
    ['ip=10.0.0.1,mask=24', 'WRONG_TYPE', '--net mask: "24" is not a network mask'],
    ['mac=12:34:56:78:9a', 'WRONG_TYPE', '--net mac: "12:34:56:78:9a" is not six bytes in hexadecimal'],
    ['mac=12-34-56-78-9a-bc', 'WRONG_TYPE', 'is not six bytes'],
    ['mac=01:34:56:78:9a:bc', 'OUT_OF_RANGE', 'is the address of a group'],
    ['mac=13:34:56:78:9a:bc', 'OUT_OF_RANGE', 'Use for instance 12:34:56:78:9a:bc.'],
    ['host_mac=ff:ff:ff:ff:ff:ff', 'OUT_OF_RANGE', '--net host_mac: ff:ff:ff:ff:ff:ff is the address of a group'],
    ['mac=00:00:00:00:00:00', 'RESERVED', '--net mac: 00:00:00:00:00:00 means that there is no address'],
    ['mac=02:00:00:00:00:0A,host_mac=02:00:00:00:00:0a', 'CONFLICT', 'is the address of the guest as well'],
    ['mtu=67', 'OUT_OF_RANGE', '--net mtu: 67 bytes are too few. Use 68 to 65535.'],
    ['mtu=65536', 'OUT_OF_RANGE', '--net mtu: 65536 bytes are too many'],
    ['num_queues=1', 'OUT_OF_RANGE', '--net num_queues: 1 queues are too few'],
    [
      'num_queues=3',
      'OUT_OF_RANGE',
      '--net num_queues: 3 queues do not make pairs of receive and transmit. Use 2 or 4.',
    ],
    ['queue_size=300', 'OUT_OF_RANGE', '--net queue_size: 300 is not a power of two. Use 256 or 512.'],
    ['ops_size=0,ops_refill_time=1', 'OUT_OF_RANGE', '--net ops_size: 0 frames would let nothing through'],
    ['fd=3', 'NOT_SUPPORTED', '--net fd: not supported by tsvmm. A tap is opened by its name'],
  ])('%s is refused', (keys, code, message) => {
    expectRefusal({ net: keys }, code, message);
  });

  test('two cards with one tap, or one address', () => {
    expectRefusal({ net: ['tap=a', 'tap=a'] }, 'DUPLICATE', '--net tap (second): two network cards have tap a');
    const macs = ['mac=02:00:00:00:00:0a', 'tap=b,mac=02:00:00:00:00:0A'];
    expectRefusal({ net: macs }, 'DUPLICATE', '--net mac (second): two network cards have mac 02:00:00:00:00:0a');
  });

  test('exactly the contiguous masks are masks', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 32 }), (length) => {
        const bits = 2 ** 32 - 2 ** (32 - length);
        const mask = [24, 16, 8, 0].map((shift) => Math.floor(bits / 2 ** shift) % 256).join('.');
        expect(parse({ net: `ip=10.0.0.1,mask=${mask}` }).net?.[0]?.mask).toBe(mask);
      }),
    );
    fc.assert(
      fc.property(fc.nat(0xffff_ffff), (bits) => {
        const text = bits.toString(2).padStart(32, '0');
        const mask = [0, 8, 16, 24].map((at) => Number.parseInt(text.slice(at, at + 8), 2)).join('.');
        const options = { net: `ip=10.0.0.1,mask=${mask}` };
        if (/^1+0*$/.test(text)) expect(parse(options).net).toHaveLength(1);
        else expectRefusal(options, 'WRONG_TYPE', 'is not a run of ones, then zeros');
      }),
    );
  });
});

describe('the small devices', () => {
  test('--rng', () => {
    expect(parse({ rng: 'src=/dev/random' }).rng).toEqual({ src: '/dev/random' });
    expect(parse({ rng: '' }).rng).toEqual({ src: '/dev/urandom' });
    expect(validateVmConfig({ rng: {} }).rng).toEqual({ src: '/dev/urandom' });
    expectRefusal({ rng: 'src=/nowhere' }, 'NOT_FOUND', '--rng src: "/nowhere" does not exist');
    expectRefusal({ rng: `src=${folder}` }, 'UNUSABLE_FILE', 'is a directory');
    expectRefusal({ rng: 'id=r' }, 'NOT_SUPPORTED', '--rng id: not supported');
  });

  test('--balloon', () => {
    expect(parse({ balloon: 'size=128M,deflate_on_oom=on,free_page_reporting=on' }).balloon).toEqual({
      size: 128 * MIB,
      deflate_on_oom: true,
      free_page_reporting: true,
    });
    expect(parse({ balloon: 'deflate_on_oom=on' }).balloon).toEqual({ size: 0, deflate_on_oom: true });
    expectRefusal({ balloon: 'size=1G' }, 'OUT_OF_RANGE', "1073741824 bytes are more than the guest's memory");
    expectRefusal(
      { balloon: 'size=1000' },
      'OUT_OF_RANGE',
      '--balloon size: 1000 bytes (1000 bytes) are not a multiple',
    );
    expectRefusal({ balloon: 'size=-4096' }, 'OUT_OF_RANGE', '--balloon size: -4096 is negative');
  });

  test('a watchdog and a panic port are found by ACPI', () => {
    expect(parse({ watchdog: '', pvpanic: '' })).toMatchObject({ watchdog: true, pvpanic: true });
    const cmdline = 'console=ttyS0 acpi=off quiet';
    expectRefusal({ watchdog: '', cmdline }, 'CONFLICT', '--watchdog: Linux finds this device by ACPI');
    expectRefusal({ pvpanic: '', cmdline }, 'CONFLICT', '--pvpanic: Linux finds this device by ACPI');
    expect(parse({ watchdog: '', cmdline: 'noacpi=off' }).watchdog).toBe(true);
    expectRefusal({ watchdog: '', cmdline: 'acpi=force a="x y" acpi=off -- acpi=force' }, 'CONFLICT', 'acpi=off');
    expect(validateVmConfig({ watchdog: false, payload: { cmdline } }).watchdog).toBe(false);
  });
});

test('whether a command line switches ACPI off is judged as where the machine is built', () => {
  const word = fc.constantFrom(
    'acpi=off',
    'acpi=force',
    '"acpi=off"',
    'quiet',
    '--',
    '"--"',
    'a="b acpi=off"',
    'acpi=',
    '"',
  );
  const gap = fc.constantFrom(' ', '  ', '\t', '');
  fc.assert(
    fc.property(fc.array(fc.tuple(word, gap)), (parts) => {
      const line = parts.flat().join('');
      expect(saysAcpiOff(line)).toBe(!usesAcpi(line));
    }),
    { numRuns: 2000 },
  );
});

describe('the machine as a whole', () => {
  test('there are as many interrupt lines as the rules say', () => {
    expect(VIRTIO_GSIS).toHaveLength(MAX_VIRTIO_DEVICES);
  });

  test('two devices with one name, even of different kinds', () => {
    const message = '--net id: two devices are called "x"';
    expectRefusal({ disk: `path=${image},id=x`, net: 'id=x' }, 'DUPLICATE', message);
    // The names that tsvmm gives by itself count, where it gives them.
    expect(parse({ disk: `path=${image},id=_disk0` }).disks?.[0]?.id).toBe('_disk0');
    const second = { disk: [`path=${image},id=_disk1`, `path=${other}`] };
    expectRefusal(second, 'DUPLICATE', '--disk id (first): two devices are called "_disk1"');
    expectRefusal({ net: ['tap=a,id=x', 'tap=b,id=x'] }, 'DUPLICATE', '--net id (second): two devices are called "x"');
  });

  test('more devices than interrupt lines', () => {
    const net = Array.from({ length: MAX_VIRTIO_DEVICES }, (_, index) => `tap=t${index}`);
    expect(parse({ net }).net).toHaveLength(MAX_VIRTIO_DEVICES);
    const message =
      '--net: there are 20 virtio devices (18 network cards, 1 console, 1 balloon) for 18 interrupt lines. Have at most';
    expectRefusal({ net, console: 'null', balloon: 'size=0' }, 'OUT_OF_RANGE', message);
    // A kernel gets random numbers without asking.
    expectRefusal({ net, kernel: image }, 'OUT_OF_RANGE', '1 rng) for 18 interrupt lines');
  });
});
