// Writes a snapshot into a folder so that a crash at any moment leaves either the whole of it or none. Main thread.
//
// Every file is written under a temporary name and synchronised before it takes its own; state.json, without which the
// folder is no snapshot, is removed first and takes its name last.

import {
  closeSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { randomUUID } from 'node:crypto';
import { dirname, join, relative, resolve } from 'node:path';
import type { VmConfig } from '../../config/vm-config.js';
import type { MemoryMap } from '../../platform/guest-memory.js';
import type { Fd } from '../../platform/units.js';
import { packageVersion } from '../../platform/package-version.js';
import { VmError } from '../errors.js';
import { CONFIG_FILE, formatState, MEMORY_FILE, STATE_FILE, type SavedLayout, type SavedState } from './format.js';
import { readState } from './read.js';
import { fileOffsets, writeChanges, writeMemory } from './memory-file.js';

/** Names of files under way; whatever is called so is nobody's. */
const TEMPORARY_SUFFIX = '.tmp';

/** The whole snapshot from which a VM's memory was mapped. */
export interface SnapshotOrigin {
  readonly directory: string;
  readonly id: string;
}

export interface SnapshotSource {
  readonly config: VmConfig;
  readonly memory: MemoryMap;
  readonly state: Omit<SavedState, 'id' | 'memory'>;
  /** Only what differs from it is written; without it everything is. */
  readonly base?: SnapshotOrigin | undefined;
}

/** Throws VmError SNAPSHOT for a machine of which something would be missing. */
export function refuseUnsavable({ pmem = [] }: VmConfig): void {
  const lost = pmem.find(({ file, discard_writes }) => discard_writes === true || statSync(file).isDirectory());
  if (lost === undefined) return;
  throw new VmError(
    'SNAPSHOT',
    `what the guest wrote to --pmem file=${lost.file} is in no file, and would not be in the snapshot`,
    'use a file of its own for it, without discard_writes=on',
  );
}

/** The base of a diff of a VM that came from `origin`. Throws VmError SNAPSHOT when there can be none, into that folder. */
export function diffBase(directory: string, config: VmConfig, origin: SnapshotOrigin | undefined): SnapshotOrigin {
  if (origin === undefined) {
    throw new VmError(
      'SNAPSHOT',
      'there is nothing that this VM could be saved as a diff of: it was not restored from a snapshot',
      'save the whole of it, and go on with a VM that was restored from that',
    );
  }
  if (config.memory.shared === true || config.memory.hugepages === true) {
    throw new VmError(
      'SNAPSHOT',
      'a VM whose memory has shared=on or hugepages=on cannot be saved as a diff: nobody knows which pages have changed',
      'save the whole of it, or restore it with private memory',
    );
  }
  if (resolve(directory) === resolve(origin.directory)) {
    throw new VmError(
      'SNAPSHOT',
      `${directory} has the snapshot that the diff would be a diff of`,
      'name another folder, or save the whole of it',
    );
  }
  if (readState(origin.directory).id !== origin.id) {
    throw new VmError(
      'SNAPSHOT',
      `${origin.directory} has another snapshot now than the one that this VM was restored from`,
      'save the whole of it',
    );
  }
  return origin;
}

/** Makes the folder if it is not there. Rejects with VmError SNAPSHOT. Returns how many bytes of memory were written. */
export async function writeSnapshot(directory: string, source: SnapshotSource): Promise<number> {
  try {
    makeFolder(directory);
    return await writeInto(directory, source);
  } catch (error) {
    for (const name of [CONFIG_FILE, MEMORY_FILE, STATE_FILE]) rmSync(temporary(directory, name), { force: true });
    const reason = (error as NodeJS.ErrnoException).code ?? String(error);
    throw new VmError(
      'SNAPSHOT',
      `the snapshot cannot be written to ${directory} (${reason})`,
      'name a folder where you may create files, with room for the memory of the guest',
      error,
    );
  }
}

/** With its parents. Node's own recursive mkdir never returns where a file system refuses new folders by ENOENT, as /proc does. */
function makeFolder(path: string): void {
  if (existsSync(path)) return;
  if (!existsSync(dirname(path))) makeFolder(dirname(path));
  mkdirSync(path, { mode: 0o700 });
}

async function writeInto(directory: string, { config, memory, state, base }: SnapshotSource): Promise<number> {
  const ranges = memory.map(({ guestAddress, size }) => ({ gpa: guestAddress, size }));
  const fileSize = fileOffsets(memory).at(-1) ?? 0;

  // From here on until the very end it is no snapshot.
  rmSync(join(directory, STATE_FILE), { force: true });
  sync(directory);
  const memoryFd = openSync(temporary(directory, MEMORY_FILE), 'w', 0o600);
  let written: number;
  let diff: SavedLayout['diff'];
  try {
    if (base === undefined) written = await writeMemory(memory, memoryFd as Fd);
    else {
      const changes = await writeChanges(memory, memoryFd as Fd);
      written = changes.written;
      diff = { base: { path: fromTo(directory, base.directory), id: base.id }, extents: changes.extents };
    }
    fsyncSync(memoryFd);
  } finally {
    closeSync(memoryFd);
  }
  const whole: SavedState = { ...state, id: randomUUID(), memory: { fileSize, ranges, diff } };
  writeText(temporary(directory, CONFIG_FILE), config);
  writeText(temporary(directory, STATE_FILE), formatState(whole, packageVersion()));
  for (const name of [MEMORY_FILE, CONFIG_FILE]) renameSync(temporary(directory, name), join(directory, name));
  sync(directory);
  renameSync(temporary(directory, STATE_FILE), join(directory, STATE_FILE));
  sync(directory);
  return written;
}

/** So that both folders can be moved together. */
function fromTo(directory: string, base: string): string {
  return relative(realpathSync(directory), realpathSync(base));
}

function temporary(directory: string, name: string): string {
  return join(directory, name + TEMPORARY_SUFFIX);
}

function writeText(path: string, content: unknown): void {
  const fd = openSync(path, 'w', 0o600);
  try {
    writeFileSync(fd, `${JSON.stringify(content, undefined, 2)}\n`);
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

/** Makes the names in a folder permanent. */
function sync(directory: string): void {
  const fd = openSync(directory, 'r');
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}
