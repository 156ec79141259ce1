// Puts a kernel's modules into a tree, and the list by which an init loads them: tsvmm's agent does as init. Main thread.
//
// Distributions build as modules what a guest needs first of all: the bus of its devices, its disk, vsock. Files go in as they
// are, compressed or not, to usr/lib/modules/VERSION: not to lib, which is a link to usr/lib in many roots and would become a
// folder where archives are unpacked over one another. Left out: modules.dep and what else modprobe would need.

import { readdir, realpath, stat } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { formatBytes, MIB } from '../platform/units.js';
import type { Budget } from './budget.js';
import { FileSource } from './byte-source.js';
import { openRegular } from './content.js';
import { hostFailure, ImageError } from './errors.js';
import { imageTime } from './layer.js';
import { ModuleIndex } from './module-index.js';
import { nameFromHost, splitPath } from './names.js';
import type { Tree } from './tree.js';

/** Which modules of which kernel go into an image. */
export interface KernelModules {
  /** /lib/modules/VERSION, or a root that has lib/modules/VERSION. */
  readonly path: string;
  /** The kernel's version (`uname -r`), where the root has the modules of several. */
  readonly version?: string | undefined;
  /** Names of modules beside those that guests of tsvmm need; one that is not there is an error. */
  readonly names?: readonly string[] | undefined;
  /** Types of file systems, as mount has them, whose modules go in where the kernel has any; ext4 always does. */
  readonly fileSystems?: readonly string[] | undefined;
}

/** Which modules went into an image. */
export interface KernelModulesReport {
  /** The kernel that they are for. */
  readonly version: string;
  /** Paths in the image, in the order in which they are loaded. */
  readonly loaded: readonly string[];
  /** What guests of tsvmm use and this kernel does not have, neither as a module nor in itself. */
  readonly missing: readonly string[];
}

/** What the devices of a VM, its root and the guest agent need; those that a kernel has in itself are left out. */
const GUEST_MODULES = [
  'virtio_mmio',
  'vmw_vsock_virtio_transport',
  'virtio_blk',
  'virtio_net',
  'virtio_console',
  'virtio_rng',
  'virtio_balloon',
  'virtio_pmem',
  'nd_pmem',
  'ext4',
  'overlay',
  // What DHCP clients want.
  'af_packet',
  // The power button, the watchdog, a panic, a restored snapshot.
  'evdev',
  'button',
  'wdat_wdt',
  'pvpanic_mmio',
  'vmgenid',
];

/** One path a line, in the order in which to load them. */
export const MODULE_LIST_PATH = ['etc', 'tsvmm', 'modules'];

/** Several times the largest of any distribution. */
const MAX_TEXT = 32 * MIB;
/** As the kernel names itself: `uname -r`. */
const VERSION = /^\d+\.[\w.+~-]{1,62}$/;

const ELF_X86_64_RELOCATABLE = { 0: 0x7f, 1: 0x45, 2: 0x4c, 3: 0x46, 4: 2, 5: 1, 16: 1, 17: 0, 18: 62, 19: 0 };
const MAGIC: Readonly<Record<string, Readonly<Record<number, number>>>> = {
  '.ko': ELF_X86_64_RELOCATABLE,
  '.gz': { 0: 0x1f, 1: 0x8b },
  '.xz': { 0: 0xfd, 1: 0x37, 2: 0x7a, 3: 0x58, 4: 0x5a, 5: 0 },
  '.zst': { 0: 0x28, 1: 0xb5, 2: 0x2f, 3: 0xfd },
};

export interface KernelModulesContext {
  readonly tree: Tree;
  readonly budget: Budget;
  readonly signal: AbortSignal | undefined;
}

/** Puts the modules and the list of them into the tree. Throws ImageError. */
export async function addKernelModules(
  { path, version: wanted, names = [], fileSystems = [] }: KernelModules,
  context: KernelModulesContext,
): Promise<KernelModulesReport> {
  const folder = await moduleFolder(path, wanted);
  const version = basename(folder);
  const index = await readIndex(folder);
  const absent = names.find((name) => index.find(name) === undefined);
  if (absent !== undefined) {
    const detail = `the kernel ${version} has no module ${absent}, and has it not in itself`;
    throw new ImageError('not-found', folder, detail, 'check its name, or install the package with more modules');
  }
  const loaded: string[] = [];
  context.tree.beginLayer();
  for (const file of index.inOrder([
    ...GUEST_MODULES,
    ...fileSystems.flatMap((type) => index.forFileSystem(type)),
    ...names,
  ])) {
    context.signal?.throwIfAborted();
    loaded.push(await addModule(folder, file, context));
  }
  putList(loaded, folder, context);
  return { version, loaded, missing: GUEST_MODULES.filter((name) => index.find(name) === undefined) };
}

/** The folder with modules.dep that `path` means: itself, or one in it that is named by a version. */
async function moduleFolder(path: string, wanted: string | undefined): Promise<string> {
  const whole = resolve(path);
  await stat(whole).catch((error: unknown) => {
    throw hostFailure(path, error);
  });
  if (await hasIndex(whole)) {
    const version = basename(whole);
    if (VERSION.test(version) && (wanted ?? version) === version) return whole;
    const detail = `the folder of modules is called ${version}`;
    const mend = `name one that is called as its kernel's version, such as /lib/modules/${wanted ?? '6.1.0-18-amd64'}`;
    throw new ImageError(
      'wrong-kind',
      path,
      VERSION.test(version) ? `it is for another kernel: ${detail}` : detail,
      mend,
    );
  }
  for (const parent of [join(whole, 'lib/modules'), join(whole, 'usr/lib/modules'), whole]) {
    const versions = await versionsIn(parent);
    if (wanted !== undefined && versions.includes(wanted)) return join(parent, wanted);
    if (versions.length === 0) continue;
    const all = versions.join(', ');
    if (wanted !== undefined) {
      const detail = `the kernel is ${wanted}, and it has the modules of ${all}`;
      throw new ImageError('not-found', path, detail, 'name the folder with the modules of this kernel');
    }
    if (versions.length === 1) return join(parent, versions[0]);
    const mend = `name one of them, such as ${join(parent, versions[0])}`;
    throw new ImageError('wrong-kind', path, `it has the modules of several kernels: ${all}`, mend);
  }
  const mend = 'name /lib/modules/VERSION, or a root with lib/modules/VERSION; depmod makes modules.dep';
  throw new ImageError('not-found', path, 'there is no modules.dep, and no lib/modules/VERSION with one', mend);
}

async function versionsIn(parent: string): Promise<string[]> {
  const names = await readdir(parent).catch(() => []);
  const versions: string[] = [];
  for (const name of names.sort()) if (VERSION.test(name) && (await hasIndex(join(parent, name)))) versions.push(name);
  return versions;
}

function hasIndex(folder: string): Promise<boolean> {
  return stat(join(folder, 'modules.dep')).then(
    () => true,
    () => false,
  );
}

async function readIndex(folder: string): Promise<ModuleIndex> {
  const file = join(folder, 'modules.dep');
  const [dependencies, builtin, soft, aliases] = await Promise.all([
    readText(file),
    readTextIfThere(join(folder, 'modules.builtin')),
    readTextIfThere(join(folder, 'modules.softdep')),
    readTextIfThere(join(folder, 'modules.alias')),
  ]);
  return new ModuleIndex({ dependencies, builtin, soft, aliases }, file);
}

async function readTextIfThere(path: string): Promise<string> {
  try {
    return await readText(path);
  } catch (error) {
    if (error instanceof ImageError && error.code === 'not-found') return '';
    throw error;
  }
}

async function readText(path: string): Promise<string> {
  const { file, size } = await openRegular(path, true);
  try {
    if (size > MAX_TEXT) {
      const detail = `it has ${formatBytes(size)}, and no kernel's has more than ${formatBytes(MAX_TEXT)}`;
      throw new ImageError('too-large', path, detail, 'run depmod for this kernel again');
    }
    return (await new FileSource(file, 0, size).read(size)).toString('latin1');
  } catch (error) {
    throw hostFailure(path, error);
  } finally {
    await file.close();
  }
}

/** Returns where it is in the image. */
async function addModule(folder: string, file: string, { tree, budget }: KernelModulesContext): Promise<string> {
  const path = join(folder, file);
  const place = `/usr/lib/modules/${basename(folder)}/${file}`;
  budget.takeEntry(path);
  const { mtime, size } = await checkModule(path);
  budget.takeBytes(size, path);
  const content = { kind: 'host', path: await realpath(path), size } as const;
  const attributes = { mode: 0o644, uid: 0, gid: 0, mtime };
  tree.put(splitPath(nameFromHost(place), path), { kind: 'file', attributes, content }, path);
  return place;
}

/** That it is what its name says: a root may have come from anywhere, and have links to anything. */
async function checkModule(path: string): Promise<{ mtime: number; size: number }> {
  const { file, size } = await openRegular(path, true);
  try {
    const head = await new FileSource(file, 0, size).read(20);
    const magic = MAGIC[/\.(ko|gz|xz|zst)$/.exec(path)?.[0] ?? ''] ?? ELF_X86_64_RELOCATABLE;
    if (Object.entries(magic).some(([at, byte]) => head[Number(at)] !== byte)) {
      const detail = 'it is no kernel module for x86-64, of the compression that its name says';
      throw new ImageError('bad-modules', path, detail, 'install the modules of this kernel again');
    }
    const { mtimeMs } = await file.stat();
    return { mtime: imageTime(mtimeMs / 1000), size };
  } catch (error) {
    throw hostFailure(path, error);
  } finally {
    await file.close();
  }
}

function putList(loaded: readonly string[], folder: string, { tree, budget }: KernelModulesContext): void {
  budget.takeEntry(folder);
  const bytes = Buffer.from(loaded.map((path) => `${path}\n`).join(''), 'latin1');
  const attributes = { mode: 0o644, uid: 0, gid: 0, mtime: 0 };
  tree.put(MODULE_LIST_PATH, { kind: 'file', attributes, content: { kind: 'bytes', bytes } }, folder);
}

/** The folder of the modules of the kernel in the file `kernel`, of the version `version`: beside it, or this host's. */
export async function modulesOfKernel(kernel: string, version: string): Promise<string | undefined> {
  if (!VERSION.test(version)) return undefined;
  const place = dirname(resolve(kernel));
  // Fedora has kernels beside their modules; a package that was unpacked, or a root, has boot beside lib.
  const places = [...(basename(place) === version ? [place] : []), join(place, '../lib/modules', version)];
  for (const folder of [...places, join('/lib/modules', version)]) if (await hasIndex(folder)) return folder;
  return undefined;
}
