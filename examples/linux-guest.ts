// A Linux guest of which snapshots are taken, for the examples that run programs: its root holds programs of this host, and
// the guest agent is its init. It has no network and no shared folder; whatever it is to see comes through the agent.

import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { buildImage, GUEST_AGENT, Vm } from '../src/index.js';
import { UsageError, wholeNumber } from './program.js';

/** What node:util's parseArgs is given; `linuxGuest` reads the values. */
export const LINUX_OPTIONS = {
  kernel: { type: 'string' },
  cmdline: { type: 'string' },
  memory: { type: 'string' },
  with: { type: 'string', multiple: true },
  snapshot: { type: 'string' },
} as const;

const DEFAULT_CMDLINE = 'console=ttyS0 reboot=k panic=-1 quiet';

export const LINUX_USAGE = `  --kernel FILE     a bzImage or vmlinux with CONFIG_VIRTIO_VSOCKETS; or the variable TSVMM_KERNEL
  --cmdline TEXT    its command line (${DEFAULT_CMDLINE})
  --memory MIB      of the guest (128)
  --with PROGRAM    put this program of the host into the guest, too; any number of times
  --snapshot DIR    keep the booted guest there, and use it if it is there already: then nothing is booted
`;

const MIB = 2 ** 20;
const BOOT_LIMIT_MS = 300_000;

interface LinuxValues {
  readonly kernel?: string | undefined;
  readonly cmdline?: string | undefined;
  readonly memory?: string | undefined;
  readonly with?: readonly string[] | undefined;
  readonly snapshot?: string | undefined;
}

/** A folder with a snapshot of a guest whose agent answers. Disposing removes it, unless the user named it. */
export interface SavedGuest extends AsyncDisposable {
  readonly folder: string;
}

export function namedKernel({ kernel }: LinuxValues): string | undefined {
  return kernel ?? process.env['TSVMM_KERNEL'];
}

/** Boots a guest with `programs` in it and saves it, or finds one that was saved. Throws UsageError, and what VMs throw. */
export async function savedLinux(
  values: LinuxValues,
  programs: readonly string[],
  signal: AbortSignal,
): Promise<SavedGuest> {
  const { snapshot, cmdline = DEFAULT_CMDLINE } = values;
  if (snapshot !== undefined && existsSync(join(snapshot, 'state.json'))) return keep(snapshot);
  const kernel = namedKernel(values);
  if (kernel === undefined) throw new UsageError('name a Linux kernel: --kernel FILE, or the variable TSVMM_KERNEL');
  const size = wholeNumber('memory', values.memory ?? '128', 32, 1_048_576) * MIB;
  const saved = snapshot === undefined ? await temporaryFolder() : keep(snapshot);
  try {
    await mkdir(saved.folder, { recursive: true, mode: 0o700 });
    // In the snapshot's folder, for a guest that reboots reads it again.
    const initramfs = join(saved.folder, 'root.cpio');
    const sources = [...programs, ...(values.with ?? [])].map((path) => ({ kind: 'program' as const, path }));
    // The guest's kernel would have to know how to decompress it, which takes longer than copying.
    await buildImage({ sources, init: GUEST_AGENT, format: 'initramfs', compress: false, output: initramfs, signal });
    await using vm = await Vm.create({
      memory: { size },
      payload: { kernel, initramfs, cmdline },
      serial: { mode: 'Null' },
      vsock: { cid: 3 },
    });
    console.error('the guest boots');
    await vm.start();
    try {
      await vm.agent.waitReady({ timeout: BOOT_LIMIT_MS, signal });
    } catch (error) {
      signal.throwIfAborted();
      throw new Error(`the guest did not come up; its console ends with:\n${vm.console.tail(2000)}`, { cause: error });
    }
    await vm.snapshot(saved.folder);
    return saved;
  } catch (error) {
    await saved[Symbol.asyncDispose]();
    throw error;
  }
}

/** A folder that is gone when it is disposed of. */
export async function temporaryFolder(): Promise<SavedGuest> {
  const folder = await mkdtemp(join(tmpdir(), 'tsvmm-example-'));
  return { folder, [Symbol.asyncDispose]: () => rm(folder, { recursive: true, force: true }) };
}

function keep(folder: string): SavedGuest {
  return { folder, [Symbol.asyncDispose]: () => Promise.resolve() };
}
