// The files that documents name without making them: kernels, images, a folder of data. By their names, so that a new
// document has them, too.

import { constants, copyFileSync, existsSync, mkdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { execFileSync, spawnSync } from 'node:child_process';
import { basename, dirname, join } from 'node:path';
import { GUEST_AGENT } from '../../../src/agent/binary.js';
import { buildCpio } from '../cpio.js';
import { testArtefact } from '../linux-guest.js';
import { dockerArchive, tar } from '../tar.js';
import type { GroupName } from './groups.js';
import { CHECKOUT } from './sessions.js';

type Maker = (path: string, group: GroupName) => void;

const DISK_SIZE = 16 * 1024 * 1024;

/** Where no Linux runs, the built-in guest's ELF file is the kernel: it takes every device that a document gives it. */
const kernel =
  (artefact: 'kernel' | 'bzimage'): Maker =>
  (path, group) => {
    const file = group === 'linux' ? testArtefact(artefact) : join(CHECKOUT, 'firmware', 'tsvmm-guest.elf');
    copyFileSync(file, path);
  };

/** The test guest's, with the agent, which is started before its own init. */
const initramfs: Maker = (path, group) => {
  if (group !== 'linux') {
    writeFileSync(path, buildCpio({ init: { mode: 0o100755, content: AGENT_INIT } }));
    return;
  }
  const base = readFileSync(testArtefact('initramfs'));
  const extract = ['--extract', '--quiet', '--to-stdout', 'init'];
  const init = execFileSync('cpio', extract, { input: base, maxBuffer: 2 ** 24 });
  // A later archive replaces what an earlier one has.
  const added = buildCpio({
    agent: { mode: 0o100755, content: readFileSync(GUEST_AGENT) },
    'guest-init': { mode: 0o100755, content: init },
    init: { mode: 0o100755, content: AGENT_INIT },
  });
  writeFileSync(path, Buffer.concat([base, Buffer.alloc(-base.length & 3), added]));
};

/** Dynamic programs are told what to leave alone on hosts that emulate kernel mode. */
const AGENT_INIT = `#!/bin/sh
export GLIBC_TUNABLES=glibc.cpu.hwcaps=-AVX,-AVX2,-AVX512F,-AVX512VL,-AVX512BW
/agent --daemon
exec /guest-init
`;

const root: Maker = (path, group) => {
  if (group === 'linux') copyFileSync(testArtefact('disk'), path, constants.COPYFILE_FICLONE);
  else emptyDisk(path);
};

function emptyDisk(path: string): void {
  writeFileSync(path, '');
  truncateSync(path, DISK_SIZE);
}

const qcow2: Maker = (path) => {
  const { status, stderr } = spawnSync('qemu-img', ['create', '-q', '-f', 'qcow2', path, String(DISK_SIZE)], {
    encoding: 'utf8',
  });
  if (status !== 0) throw new Error(`qemu-img (Debian package qemu-utils) cannot make ${path}: ${stderr}`);
};

/** A folder with a file in it. */
const data: Maker = (path) => {
  mkdirSync(path);
  writeFileSync(join(path, 'greeting'), 'hello\n');
};

/** As `docker save` writes it: an image with busybox as its shell. */
const dockerImage: Maker = (path) => {
  const busybox = readFileSync(programPath('busybox'));
  const layer = tar([
    { name: 'bin/', type: '5', mode: 0o755 },
    { name: 'bin/busybox', mode: 0o755, content: busybox },
    { name: 'bin/sh', type: '2', linkName: 'busybox' },
  ]);
  writeFileSync(path, dockerArchive([{ layers: [layer], config: { Cmd: ['/bin/sh'] } }]));
};

/** What its --config-file is. */
const firecracker: Maker = (path, group) => {
  const config = {
    'boot-source': { kernel_image_path: 'vmlinux', boot_args: 'console=ttyS0' },
    'machine-config': { vcpu_count: 1, mem_size_mib: 64 },
    drives: [],
  };
  writeFileSync(path, JSON.stringify(config));
  makeFixture(join(dirname(path), 'vmlinux'), group);
};

function programPath(name: string): string {
  const { status, stdout } = spawnSync('sh', ['-c', 'command -v "$1"', 'sh', name], { encoding: 'utf8' });
  if (status !== 0) throw new Error(`${name} is not installed`);
  return stdout.trim();
}

const FIXTURES: Readonly<Record<string, Maker>> = {
  vmlinux: kernel('kernel'),
  vmlinuz: kernel('bzimage'),
  'vmlinuz-6.1': kernel('bzimage'),
  bzImage: kernel('bzimage'),
  'initramfs.cpio.gz': initramfs,
  'initramfs.cpio': initramfs,
  'initramfs.img': initramfs,
  'app.cpio.gz': initramfs,
  'root.img': root,
  'other.img': root,
  'scratch.img': emptyDisk,
  'data.img': emptyDisk,
  'seed.iso': emptyDisk,
  'data.qcow2': qcow2,
  'debian.tar': dockerImage,
  'firecracker.json': firecracker,
  data,
};

export function fixtureNames(): string[] {
  return Object.keys(FIXTURES);
}

/** Makes the file at `path`, unless something is there. */
export function makeFixture(path: string, group: GroupName): void {
  if (!existsSync(path)) FIXTURES[basename(path)](path, group);
}
