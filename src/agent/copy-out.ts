// From the guest to the host: the agent sends its tree, which is built here under a temporary name and renamed when it is
// whole. Main thread.
//
// The guest is not to be trusted: a name is a single component, every entry is made new (so that nothing is written
// through a symbolic link that came before), set-user-id, set-group-id and sticky bits are not kept.

import { randomBytes } from 'node:crypto';
import { constants } from 'node:fs';
import { chmod, mkdir, open, rename, symlink, type FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import {
  type CopyOutOptions,
  DEFAULT_MAX_ENTRIES,
  DEPTH_MAX,
  guestPathBytes,
  hostError,
  ProgressCounter,
  splitPath,
} from './copy.js';
import { crc32 } from './crc32.js';
import { AgentError } from './errors.js';
import { FRAME, type Frame } from './protocol.js';
import { removeTree } from './remove-tree.js';
import { AgentSession, unexpected } from './session.js';
import type { AgentTransport } from './transport.js';

const MODE_MASK = 0o777;
const SLASH = 0x2f;

/** Copies `guestPath` to `hostPath`, its final name. Rejects with AgentError. */
export async function copyOut(
  transport: AgentTransport,
  port: number,
  [guestPath, hostPath]: readonly [string, string],
  { signal, onProgress, maxBytes = Infinity, maxEntries = DEFAULT_MAX_ENTRIES }: CopyOutOptions,
): Promise<void> {
  const path = guestPathBytes(guestPath);
  const { folder } = splitPath(hostPath);
  const temporary = join(folder, `.tsvmm-copy-${process.pid}-${randomBytes(6).toString('hex')}`);
  const session = await AgentSession.open(transport, port, { signal });
  const onAbort = (): void => {
    session.destroy();
  };
  signal?.addEventListener('abort', onAbort);
  if (signal?.aborted === true) onAbort();
  try {
    session.send(FRAME.GET, path);
    const progress = new ProgressCounter(onProgress);
    await new TreeReceiver(session, { top: temporary, progress, maxBytes, maxEntries }).receive();
    await rename(temporary, hostPath);
    session.close();
  } catch (error) {
    session.destroy();
    // Why the copy failed is what counts.
    await removeTree(Buffer.from(temporary)).catch(() => undefined);
    if (signal?.aborted === true) throw new AgentError('ABORTED', 'the copy was aborted', { cause: signal.reason });
    throw hostError(error, hostPath);
  } finally {
    signal?.removeEventListener('abort', onAbort);
  }
}

interface Receiving {
  readonly top: string;
  readonly progress: ProgressCounter;
  readonly maxBytes: number;
  readonly maxEntries: number;
}

class TreeReceiver {
  private readonly session: AgentSession;
  private readonly options: Receiving;
  /** The folders that are open at present, from the top down, and the modes that they are to have. */
  private readonly folders: { readonly path: Buffer; readonly mode: number }[] = [];
  private begun = false;
  private entries = 0;

  constructor(session: AgentSession, options: Receiving) {
    this.session = session;
    this.options = options;
  }

  async receive(): Promise<void> {
    for (;;) {
      const frame = await this.session.receive();
      const { type, payload } = frame;
      if (type === FRAME.TREE_END && this.folders.length === 0 && this.begun) return;
      if (type === FRAME.DIR && payload.length >= 4) await this.enter(payload);
      else if (type === FRAME.UP && this.folders.length > 0) await this.leave();
      else if (type === FRAME.FILE && payload.length >= 12) await this.receiveFile(payload);
      else if (type === FRAME.LINK) await this.makeLink(frame);
      else throw unexpected(frame);
    }
  }

  private async enter(payload: Buffer): Promise<void> {
    if (this.folders.length === DEPTH_MAX) throw new AgentError('UNSUPPORTED_FILE', 'folders are nested too deeply');
    const path = this.place(payload.subarray(4));
    await mkdir(path, 0o700);
    this.folders.push({ path, mode: payload.readUInt32LE(0) & MODE_MASK });
  }

  private async leave(): Promise<void> {
    const folder = this.folders.pop();
    if (folder !== undefined) await chmod(folder.path, folder.mode);
    this.options.progress.addEntry();
  }

  private async receiveFile(payload: Buffer): Promise<void> {
    const path = this.place(payload.subarray(12));
    if (this.folders.length === 0) this.options.progress.expect(Number(payload.readBigUInt64LE(4)));
    const flags = constants.O_CREAT | constants.O_EXCL | constants.O_WRONLY | constants.O_NOFOLLOW;
    const file = await open(path, flags, 0o600);
    try {
      await this.fill(file, path);
      await file.chmod(payload.readUInt32LE(0) & MODE_MASK);
    } finally {
      await file.close();
    }
    this.options.progress.addEntry();
  }

  private async fill(file: FileHandle, path: Buffer): Promise<void> {
    const { progress, maxBytes } = this.options;
    let size = 0;
    let crc = 0;
    for (;;) {
      const frame = await this.session.receive();
      const { type, payload } = frame;
      if (type === FRAME.FILE_END && payload.length === 12) {
        const whole = payload.readBigUInt64LE(0) === BigInt(size) && payload.readUInt32LE(8) === crc;
        if (whole) return;
        throw new AgentError('CHECKSUM', `${path.toString()} arrived on the host other than it was sent`, {
          side: 'host',
        });
      }
      if (type !== FRAME.DATA) throw unexpected(frame);
      size += payload.length;
      if (progress.addBytes(payload.length) > maxBytes) {
        throw new AgentError('TOO_LARGE', `the guest sent more than maxBytes, ${maxBytes}`, { side: 'host' });
      }
      crc = crc32(payload, crc);
      // Some file systems take a part and tell of the full disk with the next.
      for (let done = 0; done < payload.length;) {
        done += (await file.write(payload, done, payload.length - done)).bytesWritten;
      }
    }
  }

  private async makeLink(frame: Frame): Promise<void> {
    const { payload } = frame;
    const end = payload.indexOf(0);
    const target = payload.subarray(end + 1);
    if (end < 0 || target.length === 0 || target.includes(0)) throw unexpected(frame);
    await symlink(target, this.place(payload.subarray(0, end)));
    this.options.progress.addEntry();
  }

  /** Where an entry goes. Throws AgentError PROTOCOL for a name that would lead elsewhere. */
  private place(name: Buffer): Buffer {
    const { maxEntries } = this.options;
    if (++this.entries > maxEntries) {
      throw new AgentError('TOO_LARGE', `the guest sent more entries than maxEntries, ${maxEntries}`, { side: 'host' });
    }
    const parent = this.folders.at(-1);
    if (parent === undefined) {
      if (this.begun) throw new AgentError('PROTOCOL', 'the guest sent more than one entry at the top');
      this.begun = true;
      return Buffer.from(this.options.top);
    }
    const text = name.toString('latin1');
    if (text === '' || text === '.' || text === '..' || name.includes(SLASH) || name.includes(0)) {
      throw new AgentError('PROTOCOL', `the guest sent an entry called ${JSON.stringify(text)}`, { side: 'guest' });
    }
    return Buffer.concat([parent.path, Buffer.from('/'), name]);
  }
}
