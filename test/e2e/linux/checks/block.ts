// Block devices in a Linux guest: an ext4 file system on a qcow2 image over a compressed one, read, written, trimmed and
// looked at again by tools of the host.

import { execFileSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect } from '@jest/globals';
import type { DiskConfig } from '../../../../src/config/vm-config.js';
import { MIB } from '../../../../src/platform/units.js';
import type { Vm } from '../../../../src/vmm/vm.js';
import { checkImage, qemuImg } from '../../../devices/block/qcow2/qemu.js';
import type { LinuxGuest } from '../../../support/linux-guest.js';
import { counter } from './counters.js';

const SERIAL = 'tsvmm-data-disk';
const SYSTEM_PATH = `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin`;

/** A disk with a file system that holds `/from-host`. */
export class DataDisk {
  readonly config: DiskConfig;
  private readonly directory: string;
  private readonly fromHost = randomBytes(MIB);
  /** SHA-256 of `/from-guest`, once the guest has written it. */
  private fromGuest = '';

  /** Makes the images inside `directory`. */
  constructor(directory: string) {
    this.directory = directory;
    const content = join(directory, 'content');
    const raw = join(directory, 'base.raw');
    mkdirSync(content);
    writeFileSync(join(content, 'from-host'), this.fromHost);
    // No checksums of metadata, which would be made in the guest's kernel mode (see test/guest/build.sh).
    const options = ['-O', '^metadata_csum,^64bit,^resize_inode', '-E', 'lazy_itable_init=0,lazy_journal_init=0'];
    system('mkfs.ext4', '-q', '-d', content, '-b', '4096', '-J', 'size=4', ...options, raw, '16M');
    const base = join(directory, 'base.qcow2');
    const path = join(directory, 'data.qcow2');
    qemuImg('convert', '-c', '-O', 'qcow2', raw, base);
    rmSync(raw);
    qemuImg('create', '-q', '-f', 'qcow2', '-b', base, '-F', 'qcow2', path);
    this.config = {
      path,
      id: 'data',
      serial: SERIAL,
      num_queues: 2,
      rate_limiter_config: { ops: { size: 32, refill_time: 20 }, bandwidth: { size: MIB, refill_time: 20 } },
    };
  }

  /** Everything a guest does with it; it is `device` there. */
  async check(guest: LinuxGuest, vm: Vm, device: string): Promise<void> {
    const hash = createHash('sha256').update(this.fromHost).digest('hex');
    const sysfs = `/sys/block/${device}`;
    const found = await guest.run(`read serial < ${sysfs}/serial; cd ${sysfs}/mq; echo $serial, queues *; cd /`);
    expect(found).toBe(`${SERIAL}, queues 0 1`);
    const mount = `mount -t ext4 /dev/${device} /mnt`;
    expect(await guest.run(`mkdir -p /mnt; ${mount} && sha256sum /mnt/from-host`)).toContain(hash);

    const flushes = counter(vm, 'data', 'flush_ops');
    const written = await guest.run(
      `cp /bin/socat /mnt/from-guest; rm /mnt/from-host; sync; umount /mnt; ${mount} && sha256sum /mnt/from-guest /bin/socat`,
    );
    const [fromGuest, original] = [...written.matchAll(/^[0-9a-f]{64}/gm)].map(([sum]) => sum);
    expect(fromGuest).toBe(original);
    this.fromGuest = fromGuest;
    expect(counter(vm, 'data', 'flush_ops')).toBeGreaterThan(flushes);

    expect(counter(vm, 'data', 'discard_ops')).toBe(0);
    expect(await guest.run('fstrim -v /mnt; umount /mnt')).toMatch(/trimmed/);
    expect(counter(vm, 'data', 'discard_ops')).toBeGreaterThan(0);
    for (const name of ['failed_ops', 'guest_faults']) expect([name, counter(vm, 'data', name)]).toEqual([name, 0]);
  }

  /** What is left when the VM has ended: a whole image with a whole file system and the guest's file. */
  checkAfterwards(): void {
    const { config, directory, fromGuest } = this;
    expect(checkImage(config.path)).toEqual({ corruptions: 0, leaks: 0 });
    const raw = join(directory, 'after.raw');
    qemuImg('convert', '-O', 'raw', config.path, raw);
    expectCleanExt4(raw);
    const file = join(directory, 'from-guest');
    system('debugfs', '-R', `dump /from-guest ${file}`, raw);
    expect(createHash('sha256').update(readFileSync(file)).digest('hex')).toBe(fromGuest);
  }
}

/** Throws when the image of an ext4 file system has anything to mend. */
export function expectCleanExt4(image: string): void {
  system('e2fsck', '-f', '-n', image);
}

/** Runs a tool of e2fsprogs, which are not on every user's path. */
function system(command: string, ...args: string[]): void {
  execFileSync(command, args, { stdio: 'pipe', env: { ...process.env, PATH: SYSTEM_PATH } });
}
