// What a guest of `tsvmm run` boots from, where tsvmm's agent is the init: archives that are made for this one run, the
// agent's always, and a root of programs of this host, folders and container images where no other was named. Main thread.
//
// Linux unpacks archives that follow one another, each over the ones before, compressed or not, when each that is not
// begins at a multiple of 4 (Documentation/driver-api/early-userspace/buffer-format.rst).

import { createReadStream, createWriteStream } from 'node:fs';
import { access, chmod, constants, copyFile, readFile, stat, truncate } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { GUEST_AGENT } from '../agent/binary.js';
import { AgentError } from '../agent/errors.js';
import { ConfigError } from '../config/config-error.js';
import type { VmConfig } from '../config/vm-config.js';
import { buildImage, type ImageOptions, type ImageSource } from '../image/build.js';
import { cpioArchive } from '../image/cpio.js';
import type { KernelModules } from '../image/kernel-modules.js';
import { findProgram } from '../image/programs.js';
import type { ContainerRunConfig } from '../image/run-config.js';
import { Tree } from '../image/tree.js';
import { guestModules, moduleNotes } from './guest-modules.js';
import { isContainer, type ModuleOptions } from './guest-options.js';
import type { RunFolder } from './run-folder.js';

export interface RootRequest {
  /** The root's material, one over the other. */
  readonly sources: readonly ImageSource[];
  readonly modules: ModuleOptions;
  /** The program to run; undefined where the container image says which. */
  readonly program: string | undefined;
  readonly signal: AbortSignal;
}

export interface PreparedRoot {
  readonly config: VmConfig;
  /** How the container image in the root is to be run. */
  readonly runConfig: ContainerRunConfig | undefined;
  /** What the program is called in the guest. */
  readonly program: string | undefined;
  /** What may surprise, a sentence each. */
  readonly notes: readonly string[];
}

/** What PATH is in the guest when nothing else says it; firmware/agent has the same. */
const GUEST_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'.split(':');
const DEFAULT_CMDLINE = 'console=ttyS0 reboot=k panic=-1';

/** A name of its own: an `init` of the guest's may be one of several names of the same file, which would be written to. */
const AGENT_NAME = 'tsvmm-agent';

/**
 * Makes the archives in `folder` and the configuration that boots from them. Throws ConfigError, ImageError, AgentError
 * PROGRAM_NOT_FOUND, or the signal's reason.
 */
export async function prepareRoot(config: VmConfig, request: RootRequest, folder: RunFolder): Promise<PreparedRoot> {
  const { sources } = request;
  const { payload, disks = [], pmem = [] } = config;
  refuseOtherInit(payload.cmdline);
  const cmdline = withPanic(payload.cmdline ?? DEFAULT_CMDLINE);
  const modules = await guestModules(payload, request.modules);
  if (payload.initramfs !== undefined) {
    return prepareOver(payload.initramfs, cmdline, { config, request, folder, modules });
  }
  const fromDisk = sources.length === 0 && disks.length + pmem.length > 0;
  const { material, program } =
    fromDisk || sources.some(isContainer)
      ? { material: sources, program: request.program }
      : await fromThisHost(request.program, sources);
  const report = await build({ sources: material, modules, init: GUEST_AGENT }, request, folder);
  const words = [cmdline, ...(fromDisk ? rootParameters(config) : [])];
  return {
    config: { ...config, payload: { ...payload, initramfs: report.path, cmdline: words.join(' ') } },
    runConfig: report.runConfig,
    program,
    notes: [...report.notes, ...moduleNotes(report.modules)],
  };
}

interface OverRequest {
  readonly config: VmConfig;
  readonly request: RootRequest;
  readonly folder: RunFolder;
  readonly modules: KernelModules | undefined;
}

/** The guest's own initramfs, what was asked for over it, and the agent. */
async function prepareOver(
  initramfs: string,
  cmdline: string,
  { config, request, folder, modules }: OverRequest,
): Promise<PreparedRoot> {
  const { sources, program, signal } = request;
  const path = folder.place('initramfs');
  await copyFile(initramfs, path, constants.COPYFILE_FICLONE);
  // Its mode came with it, and it may be one that must not be written to.
  await chmod(path, 0o600);
  const { size } = await stat(path);
  await truncate(path, size + (-size & 3));
  const isAdded = sources.length > 0 || modules !== undefined;
  const added = isAdded ? await build({ sources, modules }, request, folder) : undefined;
  if (added !== undefined)
    await pipeline(createReadStream(added.path), createWriteStream(path, { flags: 'a' }), { signal });
  const agent = new Tree();
  const content = { kind: 'bytes', bytes: await readFile(GUEST_AGENT) } as const;
  agent.put([AGENT_NAME], { kind: 'file', attributes: { mode: 0o755, uid: 0, gid: 0, mtime: 0 }, content }, path);
  await pipeline(cpioArchive(agent, path), createWriteStream(path, { flags: 'a' }), { signal });
  return {
    config: { ...config, payload: { ...config.payload, initramfs: path, cmdline: `${cmdline} rdinit=/${AGENT_NAME}` } },
    runConfig: added?.runConfig,
    program,
    // Not that it has no init.
    notes: moduleNotes(added?.modules),
  };
}

async function build(
  options: Pick<ImageOptions, 'sources' | 'modules' | 'init'>,
  { signal }: RootRequest,
  folder: RunFolder,
) {
  const path = folder.place('root');
  return { path, ...(await buildImage({ ...options, format: 'initramfs', compress: false, output: path, signal })) };
}

/** A root of nothing but `program`, a shell, and what was asked for over them. */
async function fromThisHost(
  program: string | undefined,
  sources: readonly ImageSource[],
): Promise<{ readonly material: readonly ImageSource[]; readonly program: string | undefined }> {
  const found = program === undefined ? undefined : await programOfThisHost(program);
  if (program !== undefined && found === undefined && sources.length === 0) {
    const mend = 'name one, or what the root is made of: --folder, --docker-archive, --disk, --initramfs';
    throw new AgentError('PROGRAM_NOT_FOUND', `this host has no program ${program} to put into the guest; ${mend}`);
  }
  const own = [found, await programOfThisHost('sh')].filter((path) => path !== undefined);
  const material = [...own.map((path): ImageSource => ({ kind: 'program', path })), ...sources];
  // As it was called, where the guest finds it by that.
  const isFound = found === undefined || (program?.includes('/') === false && GUEST_PATH.includes(dirname(found)));
  return { material, program: isFound ? program : found };
}

async function programOfThisHost(name: string): Promise<string | undefined> {
  try {
    const path = name.includes('/') ? resolve(name) : await findProgram(name);
    await access(path, constants.X_OK);
    return (await stat(path)).isFile() ? path : undefined;
  } catch {
    return undefined;
  }
}

/** The first disk is the root, unless the command line names another. */
function rootParameters({ payload: { cmdline = '' }, disks = [] }: VmConfig): string[] {
  const words = cmdline.split(/\s+/);
  if (words.some((word) => word.startsWith('root='))) return [];
  const device = disks.length > 0 ? 'vda' : 'pmem0';
  const isSaid = words.includes('ro') || words.includes('rw');
  const mode = disks[0]?.readonly === true ? 'ro' : 'rw';
  return [`root=/dev/${device}`, ...(isSaid ? [] : [mode])];
}

/** A guest that panics is to end rather than to hang. */
function withPanic(cmdline: string): string {
  return /(^|\s)panic=/.test(cmdline) ? cmdline : `${cmdline} panic=-1`;
}

function refuseOtherInit(cmdline = ''): void {
  const word = cmdline.split(/\s+/).find((each) => /^(rdinit|init)=/.test(each));
  if (word === undefined) return;
  const mend = 'Leave it out, or add --init guest: that init has to start tsvmm-agent then.';
  throw new ConfigError(
    { option: '--cmdline', value: word, label: '--cmdline' },
    { code: 'CONFLICT', problem: `${word} names an init, and tsvmm-agent is to be it`, mend },
  );
}
