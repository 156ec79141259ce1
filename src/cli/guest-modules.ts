// Which kernel modules the root of `tsvmm run` gets: those of the kernel that boots, where this host has them. Main thread.

import { kernelRelease } from '../boot/bzimage.js';
import { BootError } from '../boot/errors.js';
import { BootFile } from '../boot/file.js';
import type { VmConfig } from '../config/vm-config.js';
import { type KernelModules, type KernelModulesReport, modulesOfKernel } from '../image/kernel-modules.js';
import { type ModuleOptions, NO_MODULES } from './guest-options.js';

/** Without these no agent can be reached. */
const VITAL = ['virtio_mmio', 'vmw_vsock_virtio_transport'];

/** The modules for the kernel of `payload`, if there are any. */
export async function guestModules(
  { kernel, cmdline = '' }: VmConfig['payload'],
  { path, names }: ModuleOptions,
): Promise<KernelModules | undefined> {
  if (path === NO_MODULES || kernel === undefined) return undefined;
  const version = releaseOf(kernel);
  const folder = path ?? (version === undefined ? undefined : await modulesOfKernel(kernel, version));
  return folder === undefined ? undefined : { path: folder, version, names, fileSystems: rootTypes(cmdline) };
}

/** What is to be said of them, a sentence each. */
export function moduleNotes(modules: KernelModulesReport | undefined): string[] {
  return VITAL.filter((name) => modules?.missing.includes(name) === true).map(
    (name) => `the kernel ${modules?.version ?? ''} has no ${name}, without which its guest is not reached`,
  );
}

function releaseOf(kernel: string): string | undefined {
  try {
    using file = new BootFile(kernel, 'kernel');
    return kernelRelease(file);
  } catch (error) {
    // What is wrong with it is said when it is to boot.
    if (error instanceof BootError) return undefined;
    throw error;
  }
}

function rootTypes(cmdline: string): string[] {
  return [...cmdline.matchAll(/(?:^|\s)rootfstype=(\S+)/g)].flatMap(([, types]) => types.split(','));
}
