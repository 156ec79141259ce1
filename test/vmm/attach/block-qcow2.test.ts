// Disks with qcow2 images as they are opened: told apart by their first bytes or by image_type, checked before the guest
// starts, and every refusal with the option, the file and what to do.

import { writeFileSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import type { DiskConfig } from '../../../src/config/vm-config.js';
import { attachBlock } from '../../../src/vmm/attach/block.js';
import { VmError } from '../../../src/vmm/errors.js';
import { ReleaseStack } from '../../../src/vmm/release-stack.js';
import { CLUSTER, DISK_SIZE, makeImage, type ImageBytes } from '../../devices/block/qcow2/handmade.js';
import { ScratchDirectory } from '../../devices/block/scratch.js';
import { openDescriptors } from '../../support/process-state.js';

const BACKING_FORMAT = 0xe279_2aca;
const NAME_OFFSET = 300;
const CONFIG_CAPACITY = 0;
const CONFIG_DISCARD_SECTOR_ALIGNMENT = 44;

let scratch: ScratchDirectory;
let resources: ReleaseStack;
let descriptors: number;

beforeEach(() => {
  descriptors = openDescriptors();
  scratch = new ScratchDirectory();
  resources = new ReleaseStack();
});
afterEach(() => {
  resources.releaseAll();
  scratch[Symbol.dispose]();
  expect(openDescriptors()).toBe(descriptors);
});

function attach(config: DiskConfig, owner = resources) {
  return attachBlock(config, 0, { resources: owner, log: () => undefined });
}

function refusal(config: DiskConfig): VmError {
  const owner = new ReleaseStack();
  try {
    attach(config, owner);
  } catch (error) {
    if (error instanceof VmError) return error;
    throw error;
  } finally {
    owner.releaseAll();
  }
  throw new Error('it was not refused');
}

function save(name: string, image: ImageBytes = makeImage()): string {
  writeFileSync(scratch.at(name), image.bytes);
  return scratch.at(name);
}

function overlay(name: string, backing: string, format = 'qcow2'): string {
  const image = makeImage().u64(8, NAME_OFFSET).u32(16, backing.length).text(NAME_OFFSET, backing);
  return save(name, image.u32(104, BACKING_FORMAT).u32(108, format.length).text(112, format));
}

describe('qcow2 disks', () => {
  test('are known by their first bytes; the disk has the size that the header says, in clusters to discard', () => {
    const { settings, identity } = attach({ path: save('image') });
    expect(settings.image).toMatchObject({ format: 'qcow2', backing: undefined });
    const config = Buffer.from(identity.config);
    expect(config.readBigUInt64LE(CONFIG_CAPACITY)).toBe(BigInt(DISK_SIZE / 512));
    expect(config.readUInt32LE(CONFIG_DISCARD_SECTOR_ALIGNMENT)).toBe(CLUSTER / 512);
  });

  test('image_type says what a file is, whatever it looks like', () => {
    expect(attach({ path: save('image'), image_type: 'Raw' }).settings.image.format).toBe('raw');
    writeFileSync(scratch.at('raw'), Buffer.alloc(4096));
    expect(refusal({ path: scratch.at('raw'), image_type: 'Qcow2' })).toMatchObject({
      code: 'DISK_IMAGE',
      message: `--disk: ${scratch.at('raw')}: this is not a qcow2 image; name a qcow2 image, or say image_type=raw`,
    });
  });

  test('with a backing file: both are opened and locked, the one behind for reading', () => {
    const base = save('base');
    const [one, two] = [overlay('one', 'base'), overlay('two', 'base')];
    const { settings } = attach({ path: one });
    attach({ path: two });
    expect(settings.image).toMatchObject({
      format: 'qcow2',
      file: { path: one, readOnly: false },
      backing: { format: 'qcow2', file: { path: base, readOnly: true } },
    });
    expect(refusal({ path: base })).toMatchObject({ code: 'DISK_IN_USE' });
    attach({ path: base, readonly: true });
  });

  test('a backing file that somebody writes to', () => {
    attach({ path: save('base') });
    const top = overlay('top', 'base');
    const error = refusal({ path: top });
    expect(error.code).toBe('DISK_IN_USE');
    expect(error.message).toContain(`--disk: backing file of ${top}: ${scratch.at('base')} is in use`);
  });

  test('a backing file that is not there', () => {
    const top = overlay('top', 'nowhere');
    expect(refusal({ path: top })).toMatchObject({
      code: 'HOST_PATH',
      message: `--disk: backing file of ${top}: ${scratch.at('nowhere')} does not exist; check the spelling`,
    });
  });

  test('a backing file where there may be none', () => {
    save('base');
    const top = overlay('top', 'base');
    attach({ path: save('alone'), backing_files: false });
    const error = refusal({ path: top, backing_files: false });
    expect(error.code).toBe('DISK_IMAGE');
    expect(error.message).toContain(`${top}: it has a backing file, "base", and backing_files=off`);
  });

  test.each<[string, (image: ImageBytes) => unknown, RegExp]>([
    ['a broken header', (image) => image.u32(36, 0), /broken qcow2 header: l1_size is 0.*qemu-img check/],
    ['encryption', (image) => image.u32(32, 2), /it is encrypted \(LUKS\); convert it: qemu-img convert/],
    ['an unclean end', (image) => image.u64(72, 1), /not closed cleanly.*qemu-img check -r all/],
    ['damage', (image) => image.u64(72, 2), /marked as corrupt; repair it: qemu-img check -r all/],
  ])('%s', (name, change, message) => {
    const image = makeImage();
    change(image);
    const path = save(name, image);
    const error = refusal({ path });
    expect(error.code).toBe('DISK_IMAGE');
    expect(error.message).toContain(`--disk: ${path}: `);
    expect(error.message).toMatch(message);
  });

  test('a loop', () => {
    const top = overlay('top', 'middle');
    overlay('middle', 'top');
    expect(refusal({ path: top }).message).toContain('has this image behind it');
    expect(refusal({ path: overlay('self', 'self') }).message).toContain('has this image behind it');
  });
});
