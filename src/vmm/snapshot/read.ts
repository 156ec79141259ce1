// Opens a snapshot and refuses what is not one, with the reason. Main thread.

import { closeSync, fstatSync, openSync, readFileSync, realpathSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { ZodError } from 'zod';
import { ConfigError } from '../../config/config-error.js';
import { byPath } from '../../config/rules/rule.js';
import type { VmConfig } from '../../config/vm-config.js';
import type { Fd } from '../../platform/units.js';
import { VmError } from '../errors.js';
import type { SavedMemory } from '../memory.js';
import {
  CONFIG_FILE,
  MEMORY_FILE,
  parseState,
  SNAPSHOT_VERSION,
  STATE_FILE,
  type SavedState,
  type SnapshotBase,
} from './format.js';
import type { SnapshotOrigin } from './write.js';

/** A snapshot that was looked through. `close` releases its memory file. */
export interface OpenSnapshot {
  /** Complete, but not judged: host paths in it may be replaced first. */
  readonly config: VmConfig;
  readonly state: SavedState;
  readonly memory: SavedMemory;
  /** What a VM that is restored from it can be saved as a diff of: itself, or its own base. */
  readonly origin: SnapshotOrigin;
  close(): void;
}

/** Rejects with VmError SNAPSHOT. */
export async function openSnapshot(directory: string): Promise<OpenSnapshot> {
  const state = readState(directory);
  const config = await readSavedConfig(directory);
  const { fileSize, diff } = state.memory;
  const origin = diff === undefined ? { directory, id: state.id } : findBase(directory, state, diff.base);
  const fd = openMemory(origin.directory, fileSize);
  try {
    const extents = diff?.extents ?? [];
    const memory = { fd, diff: diff === undefined ? undefined : { fd: openMemory(directory, fileSize), extents } };
    return {
      config,
      state,
      memory,
      origin,
      close: () => {
        closeSync(fd);
        if (memory.diff !== undefined) closeSync(memory.diff.fd);
      },
    };
  } catch (error) {
    closeSync(fd);
    throw error;
  }
}

/** Throws VmError SNAPSHOT when it is not there, or not what it was. */
function findBase(directory: string, { memory }: SavedState, base: SnapshotBase): SnapshotOrigin {
  const origin = resolve(realpathSync(directory), base.path);
  const mend = `bring back the snapshot that it is a diff of, at ${origin}`;
  let found: SavedState;
  try {
    found = readState(origin);
  } catch (error) {
    if (!(error instanceof VmError)) throw error;
    throw refused(directory, `it is a diff, and its base cannot be read: ${error.message}`, mend, error);
  }
  const same =
    found.id === base.id &&
    found.memory.diff === undefined &&
    JSON.stringify(found.memory.ranges) === JSON.stringify(memory.ranges);
  if (same) return { directory: origin, id: base.id };
  throw refused(directory, `it is a diff of a snapshot that was in ${origin}, where another is now`, mend);
}

/** The configuration of the saved machine, complete and of the right shape. Rejects with VmError SNAPSHOT. */
export async function readSavedConfig(directory: string): Promise<VmConfig> {
  const json = readJson(directory, CONFIG_FILE);
  const { completeVmConfig } = await import('../../config/validate.js');
  try {
    return completeVmConfig(json, byPath);
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    throw refused(directory, `${CONFIG_FILE} is damaged: ${error.message.replace(/\.$/, '')}`, 'take a new one', error);
  }
}

/** Throws VmError SNAPSHOT. */
export function readState(directory: string): SavedState {
  const json = readJson(directory, STATE_FILE);
  const { version } = json as { version?: unknown };
  if (typeof version === 'number' && version !== SNAPSHOT_VERSION) {
    throw refused(
      directory,
      `it has version ${version}, and this tsvmm reads version ${SNAPSHOT_VERSION}`,
      'use the tsvmm that saved it',
    );
  }
  try {
    return parseState(json);
  } catch (error) {
    if (!(error instanceof ZodError)) throw error;
    const { path, message } = error.issues[0] ?? { path: [], message: 'it makes no sense' };
    throw refused(
      directory,
      `${STATE_FILE} is damaged at ${path.join('.') || 'its root'}: ${message}`,
      'take a new one',
      error,
    );
  }
}

function readJson(directory: string, name: string): unknown {
  let text: string;
  try {
    text = readFileSync(join(directory, name), 'utf8');
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? String(error);
    const reason =
      code === 'ENOENT'
        ? `it has no ${name}: it is not a snapshot, or saving it was interrupted`
        : `${name} cannot be read (${code})`;
    throw refused(directory, reason, 'name the folder of a snapshot, or take a new one', error);
  }
  try {
    const json: unknown = JSON.parse(text);
    if (typeof json === 'object' && json !== null) return json;
    throw new SyntaxError('it is not an object');
  } catch (error) {
    throw refused(directory, `${name} is damaged: ${String(error)}`, 'take a new one', error);
  }
}

function openMemory(directory: string, size: number): Fd {
  let fd: number;
  try {
    fd = openSync(join(directory, MEMORY_FILE), 'r');
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? String(error);
    throw refused(directory, `${MEMORY_FILE} cannot be opened (${code})`, 'take a new one', error);
  }
  const present = fstatSync(fd).size;
  if (present === size) return fd as Fd;
  closeSync(fd);
  throw refused(directory, `${MEMORY_FILE} has ${present} bytes instead of ${size}`, 'take a new one');
}

function refused(directory: string, reason: string, mend: string, cause?: unknown): VmError {
  return new VmError('SNAPSHOT', `the snapshot in ${directory} cannot be restored: ${reason}`, mend, cause);
}
