// Disks as they are opened: what is refused and how it is named, locks between processes, and what the guest is told.

import { execFileSync, spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import type { DiskConfig } from '../../../src/config/vm-config.js';
import { hasFeature } from '../../../src/devices/virtio/device.js';
import {
  VIRTIO_BLK_F_CONFIG_WCE_BIT,
  VIRTIO_BLK_F_DISCARD_BIT,
  VIRTIO_BLK_F_MQ_BIT,
  VIRTIO_BLK_F_RO_BIT,
} from '../../../src/devices/block/settings.js';
import { MIB } from '../../../src/platform/units.js';
import { attachBlock } from '../../../src/vmm/attach/block.js';
import type { VmError } from '../../../src/vmm/errors.js';
import { ReleaseStack } from '../../../src/vmm/release-stack.js';
import { openDescriptors } from '../../support/process-state.js';
import { ScratchDirectory } from '../../devices/block/scratch.js';

const HOLDER = fileURLToPath(new URL('disk-holder.js', import.meta.url));

let scratch: ScratchDirectory;
let resources: ReleaseStack;
let descriptors: number;
let logged: string[];
const children: ChildProcess[] = [];

beforeEach(() => {
  descriptors = openDescriptors();
  scratch = new ScratchDirectory();
  resources = new ReleaseStack();
  logged = [];
});
afterEach(async () => {
  for (const child of children.splice(0)) await kill(child);
  resources.releaseAll();
  scratch[Symbol.dispose]();
  expect(openDescriptors()).toBe(descriptors);
});

function attach(config: DiskConfig, index = 0, owner = resources) {
  return attachBlock(config, index, { resources: owner, log: (_level, message) => logged.push(message) });
}

/** The error of a disk that cannot be used; what was opened for it is closed as when a VM is not made. */
function refusal(config: DiskConfig): VmError {
  const owner = new ReleaseStack();
  try {
    attach(config, 0, owner);
  } catch (error) {
    return error as VmError;
  } finally {
    owner.releaseAll();
  }
  throw new Error('it was not refused');
}

function image(name: string, size = MIB): string {
  const path = scratch.at(name);
  writeFileSync(path, '');
  truncateSync(path, size);
  return path;
}

describe('refusals name the file and what to do', () => {
  test('a file that is not there', () => {
    const path = scratch.at('missing');
    expect(refusal({ path })).toMatchObject({
      code: 'HOST_PATH',
      message: `--disk: ${path} does not exist; check the spelling`,
    });
  });

  test('a directory, and a FIFO, which is not even opened', () => {
    const directory = scratch.at('d');
    mkdirSync(directory);
    expect(refusal({ path: directory }).message).toContain('is a directory');
    const fifo = scratch.at('f');
    execFileSync('mkfifo', [fifo]);
    expect(refusal({ path: fifo }).message).toContain('is neither a file nor a block device');
  });

  test('a file that may not be written', () => {
    // A program that runs: not even root may.
    const error = refusal({ path: process.execPath });
    expect(error).toMatchObject({ code: 'HOST_PATH' });
    expect(error.message).toMatch(/cannot be opened for reading and writing \(E(TXTBSY|ACCES|ROFS)\).*readonly=on/);
  });

  test('an empty file', () => {
    expect(refusal({ path: image('e', 0) })).toMatchObject({ code: 'DISK_IMAGE' });
    expect(refusal({ path: image('e', 0) }).message).toContain('is empty');
  });

  test('a size that is no multiple of the sector', () => {
    const { code, message } = refusal({ path: image('odd', 1000) });
    expect(code).toBe('DISK_IMAGE');
    expect(message).toContain('has 1000 bytes, which is no multiple of the 512');
  });

  test.each([
    ['VMDK', 'KDMV'],
    ['VHDX', 'vhdxfile'],
  ])('an image in a format that nothing here reads: %s', (name, magic) => {
    const path = scratch.at('other');
    writeFileSync(path, magic.padEnd(1024, '\0'));
    const { code, message } = refusal({ path });
    expect(code).toBe('DISK_IMAGE');
    expect(message).toContain(`is a ${name} image`);
    expect(message).toContain('qemu-img convert');
    expect(attach({ path, image_type: 'Raw' }).settings.image).toMatchObject({ format: 'raw', guardHeader: false });
  });
});

describe('locks', () => {
  test.each([
    ['rw', false, 'DISK_IN_USE'],
    ['rw', true, 'DISK_IN_USE'],
    ['ro', false, 'DISK_IN_USE'],
    ['ro', true, undefined],
  ] as const)('another process has it %s; we want it read-only: %s', async (theirs, readonly, code) => {
    const path = image('disk');
    const child = await holder(path, theirs);
    if (code === undefined) {
      attach({ path, readonly });
    } else {
      const error = refusal({ path, readonly });
      expect(error.code).toBe(code);
      expect(error.message).toContain(`${path} is in use by another VM`);
    }
    // A lock ends with its process, however that ends.
    await kill(child);
    resources.releaseAll();
    attach({ path, readonly });
  });

  test('ours keep another process away', async () => {
    const path = image('disk');
    attach({ path });
    expect(await say(path, 'rw')).toBe('DISK_IN_USE');
    expect(await say(path, 'ro')).toBe('DISK_IN_USE');
    resources.releaseAll();
    attach({ path, readonly: true });
    expect(await say(path, 'rw')).toBe('DISK_IN_USE');
    expect(await say(path, 'ro')).toBe('held');
  });

  test('one image is not two disks of a VM, by whatever name; read-only it may be', () => {
    const path = image('disk');
    const link = scratch.at('link');
    symlinkSync(path, link);
    attach({ path });
    expect(refusal({ path: link }).code).toBe('DISK_IN_USE');
    const shared = image('shared');
    attach({ path: shared, readonly: true });
    attach({ path: shared, readonly: true }, 1);
  });

  test('a disk that was refused for what is in it can be opened again', () => {
    const path = image('odd', 700);
    refusal({ path });
    truncateSync(path, 1024);
    attach({ path });
  });

  function start(path: string, mode: string): ChildProcess {
    const child = spawn(process.execPath, [HOLDER, path, mode], { stdio: ['ignore', 'pipe', 'inherit'] });
    children.push(child);
    return child;
  }

  async function said(child: ChildProcess): Promise<string> {
    const [text] = (await once(child.stdout ?? child, 'data')) as [Buffer];
    return text.toString().trim();
  }

  async function say(path: string, mode: string): Promise<string> {
    return said(start(path, mode));
  }

  async function holder(path: string, mode: string): Promise<ChildProcess> {
    const child = start(path, mode);
    expect(await said(child)).toBe('held');
    return child;
  }
});

async function kill(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const gone = once(child, 'exit');
  child.kill('SIGKILL');
  await gone;
}

describe('direct=on', () => {
  test('the descriptor says what alignment it wants, or the file system has none', () => {
    const path = image('disk');
    let alignment: number;
    try {
      const { settings } = attach({ path, direct: true });
      ({ alignment } = settings.image.file);
    } catch (error) {
      expect((error as VmError).message).toContain('does not support direct=on');
      return;
    }
    expect(alignment).toBeGreaterThanOrEqual(512);
    expect(Number.isInteger(Math.log2(alignment))).toBe(true);
  });
});

describe('what the guest is told', () => {
  test('size, names, queues and features', () => {
    const path = image('disk', 3 * MIB);
    const { id, identity, settings, counterNames } = attach({ path, num_queues: 3, queue_size: 64 }, 2);
    expect(id).toBe('_disk2');
    expect(identity.deviceId).toBe(2);
    expect(identity.queueSizes).toEqual([64, 64, 64]);
    expect(counterNames).toContain('read_bytes');
    expect(settings.serial).toMatch(/^\d{1,20}$/);
    const config = new DataView(identity.config.buffer);
    expect(config.getBigUint64(0, true)).toBe(BigInt((3 * MIB) / 512));
    expect(config.getUint32(12, true)).toBe(61);
    expect(config.getUint32(20, true)).toBe(512);
    expect(config.getUint8(24)).toBe(3);
    expect(config.getUint8(32)).toBe(1);
    expect(config.getUint16(34, true)).toBe(3);
    expect(config.getUint32(40, true)).toBeGreaterThan(1);
    expect(identity.writableConfig).toEqual([{ offset: 32, length: 1 }]);
    expect(hasFeature(identity.features, VIRTIO_BLK_F_MQ_BIT)).toBe(true);
    expect(hasFeature(identity.features, VIRTIO_BLK_F_RO_BIT)).toBe(false);
  });

  test('a read-only disk offers nothing that changes it', () => {
    const { identity, settings } = attach({ path: image('disk'), readonly: true });
    expect(settings.readOnly).toBe(true);
    expect(hasFeature(identity.features, VIRTIO_BLK_F_RO_BIT)).toBe(true);
    for (const bit of [VIRTIO_BLK_F_CONFIG_WCE_BIT, VIRTIO_BLK_F_DISCARD_BIT]) {
      expect(hasFeature(identity.features, bit)).toBe(false);
    }
    expect(identity.writableConfig).toBeUndefined();
  });

  test('the serial is the same at every start, or what the option says', () => {
    const path = image('disk');
    const first = attach({ path, readonly: true }).settings.serial;
    expect(attach({ path, readonly: true }).settings.serial).toBe(first);
    expect(attach({ path, readonly: true, serial: 'mine', id: 'data' })).toMatchObject({
      id: 'data',
      settings: { serial: 'mine' },
    });
  });

  test('limits cross to the worker', () => {
    const { settings } = attach({ path: image('disk'), rate_limiter_config: { ops: { size: 5, refill_time: 10 } } });
    expect(settings.rateLimiter).toEqual({ ops: { size: 5, oneTimeBurst: 0, refillTime: 10 } });
  });

  test('that the type of an image was detected is logged, and guards it', () => {
    const path = image('disk');
    const { settings } = attach({ path });
    expect(settings.image).toMatchObject({ format: 'raw', guardHeader: true });
    expect(logged.join()).toMatch(/_disk0: .*so it is raw.*image_type=raw/);
  });
});
