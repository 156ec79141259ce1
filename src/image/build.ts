// Builds an initramfs or an ext4 root from folders, programs and container images, one over the other. Main thread; needs no
// privileges, and runs nothing of what it puts into the image.
//
// The material is first gathered as a tree (tree.ts), then written in one go to a file beside the output, which takes its
// name when it is whole. Whatever goes wrong, and however it is stopped, nothing else stays behind.

import { createWriteStream } from 'node:fs';
import { open, rename, stat, lstat } from 'node:fs/promises';
import { pipeline } from 'node:stream/promises';
import { createGzip } from 'node:zlib';
import { Budget, DEFAULT_MAX_BYTES } from './budget.js';
import { FileSource, piecesOf, StreamSource } from './byte-source.js';
import { openRegular } from './content.js';
import { type ContainerImage, findImage } from './container-image.js';
import { cpioArchive } from './cpio.js';
import { hostFailure, ImageError } from './errors.js';
import { writeExt4 } from './ext4.js';
import { addFolder, fileKey } from './folder.js';
import { applyLayer, type DevicePolicy, imageTime } from './layer.js';
import { addKernelModules, type KernelModules, type KernelModulesReport } from './kernel-modules.js';
import { findProgram, ProgramAdder } from './programs.js';
import { addRunConfig, type ContainerRunConfig } from './run-config.js';
import { Spool } from './spool.js';
import { FolderStore, type Store, TarStore } from './store.js';
import { bounded, decompressed, verified } from './streams.js';
import { TarReader } from './tar-reader.js';
import { contentSize, linkCounts, Tree } from './tree.js';

/** Where files of an image come from; `kind` says what `path` is. */
export type ImageSource =
  /** A folder, as it is. */
  | {
      /** A folder. */
      readonly kind: 'folder';
      /** Its path. */
      readonly path: string;
    }
  /** A program, by path or by a name in PATH, with the libraries that it needs. */
  | {
      /** A program. */
      readonly kind: 'program';
      /** Its path, or its name in PATH. */
      readonly path: string;
    }
  /** What `docker save` wrote, compressed or not; `image` if there are several in it. */
  | {
      /** An archive of `docker save` or `podman save`. */
      readonly kind: 'docker-archive';
      /** Its path. */
      readonly path: string;
      /** `name:tag` of one of its images. */
      readonly image?: string | undefined;
    }
  /** An OCI layout. */
  | {
      /** An OCI layout on disk. */
      readonly kind: 'oci-layout';
      /** The folder that `index.json` is in, or a tar archive of it. */
      readonly path: string;
      /** The name or tag of one of its images. */
      readonly image?: string | undefined;
    };

/** `initramfs`: a cpio archive for `payload.initramfs`. `ext4`: a file system for a disk. */
export type ImageFormat = 'initramfs' | 'ext4';

/** What goes into an image, and where it goes. */
export interface ImageOptions {
  /** Later ones over earlier ones; at least one, or an `init`, or `modules`. */
  readonly sources: readonly ImageSource[];
  /** What is made. */
  readonly format: ImageFormat;
  /** Path of the image; a regular file there is replaced when the new one is whole. */
  readonly output: string;
  /** Bytes of an ext4 image; by default what the content takes, and a quarter more. */
  readonly size?: number | undefined;
  /** Whether an initramfs is compressed by gzip: it is, by default. */
  readonly compress?: boolean | undefined;
  /**
   * A program of the host that becomes /init (initramfs) or /sbin/init (ext4), with the libraries that it needs.
   * `GUEST_AGENT` will do: as the init it mounts what programs expect and serves the host, so the image needs no other.
   */
  readonly init?: string | undefined;
  /** The guest agent (`GUEST_AGENT` is its path), to become /usr/sbin/tsvmm-agent; the init has to start it. */
  readonly agent?: string | undefined;
  /**
   * Kernel modules, for the guest agent as init to load; another init finds their paths in /etc/tsvmm/modules, in the order
   * in which to load them. Distributions' kernels have the drivers of a VM's devices as modules.
   */
  readonly modules?: KernelModules | undefined;
  /** Seconds since 1970 for every file, instead of its own time. */
  readonly mtime?: number | undefined;
  /** Owner of everything from folders, instead of the one on the host. */
  readonly owner?:
    | {
        /** User id. */
        readonly uid: number;
        /** Group id. */
        readonly gid: number;
      }
    | undefined;
  /** What becomes of device nodes: they are refused by default. */
  readonly devices?: DevicePolicy | undefined;
  /** Bytes that the content may have in all, unpacked: 32 GiB by default. */
  readonly maxBytes?: number | undefined;
  /** Stops the work; its reason is thrown. */
  readonly signal?: AbortSignal | undefined;
  /** Where mkfs.ext4, debugfs and e2fsck are looked for: by default in PATH and the usual folders. */
  readonly toolPath?: string | undefined;
}

/** What was built. */
export interface ImageReport {
  /** Files, directories and links in it. */
  readonly entries: number;
  /** Bytes of content. */
  readonly contentBytes: number;
  /** Bytes of the image. */
  readonly imageBytes: number;
  /** Which kernel modules are in it, where some were asked for. */
  readonly modules?: KernelModulesReport | undefined;
  /** What was left out or may surprise, a sentence each. */
  readonly notes: readonly string[];
  /** How the container image in it wants to be run, the last of several; undefined without one. */
  readonly runConfig?: ContainerRunConfig | undefined;
}

const AGENT_PLACE = '/usr/sbin/tsvmm-agent';
const INIT_PLACES: Readonly<Record<ImageFormat, string>> = { initramfs: '/init', ext4: '/sbin/init' };
/** What the kernel looks for on a root file system. */
const ROOT_INITS = ['sbin/init', 'etc/init', 'bin/init', 'bin/sh'];

/**
 * Builds a root image of folders, programs and container images, without root privileges. ext4 takes `mkfs.ext4`, `debugfs`
 * and `e2fsck` of e2fsprogs on the host. Rejects with ImageError, or with the reason of `signal`; there is no new file at
 * `output` then, and nothing beside it.
 *
 * @example
 * ```ts
 * import { buildImage, GUEST_AGENT } from 'tsvmm';
 *
 * const { imageBytes, notes } = await buildImage({
 *   format: 'initramfs',
 *   output: 'root.cpio.gz',
 *   sources: [
 *     { kind: 'docker-archive', path: 'app.tar' },
 *     { kind: 'folder', path: './overlay' },
 *   ],
 *   agent: GUEST_AGENT,
 * });
 * ```
 */
export async function buildImage(options: ImageOptions): Promise<ImageReport> {
  const { output, signal } = options;
  await refuseOtherKinds(output);
  await using spool = await Spool.open(output, signal);
  const builder = new Builder(options, spool);
  try {
    await builder.gather();
    return await builder.write();
  } catch (error) {
    // What was under way when it was stopped fails in ways of its own.
    signal?.throwIfAborted();
    throw error;
  }
}

async function refuseOtherKinds(output: string): Promise<void> {
  const present = await lstat(output).catch(() => undefined);
  if (present === undefined || present.isFile()) return;
  const mend = 'name a file that is not there yet, or one to be replaced';
  throw new ImageError('wrong-kind', output, 'there is something else than a regular file', mend);
}

class Builder {
  private readonly options: ImageOptions;
  private readonly spool: Spool;
  private readonly tree = new Tree();
  private readonly budget: Budget;
  private readonly notes: string[] = [];
  private modules: KernelModulesReport | undefined;
  private xattrs = 0;
  private runConfig: ContainerRunConfig | undefined;

  constructor(options: ImageOptions, spool: Spool) {
    this.options = options;
    this.spool = spool;
    this.budget = new Budget(options.maxBytes ?? DEFAULT_MAX_BYTES);
  }

  async gather(): Promise<void> {
    const { sources, init, agent, format, modules, signal } = this.options;
    const { tree, budget } = this;
    const note = (text: string): void => {
      this.notes.push(text);
    };
    const programs = new ProgramAdder({ tree, budget, signal, note });
    for (const source of sources) {
      signal?.throwIfAborted();
      if (source.kind === 'folder') await this.addFolder(source.path);
      else if (source.kind === 'program') await programs.add(await findProgram(source.path));
      else await this.addContainer(source);
    }
    if (agent !== undefined) await programs.add(await findProgram(agent), AGENT_PLACE);
    if (init !== undefined) await programs.add(await findProgram(init), INIT_PLACES[format]);
    if (modules !== undefined) this.modules = await addKernelModules(modules, { tree, budget, signal });
    this.noteWhatIsMissing();
    if (this.xattrs > 0) {
      note(`${this.xattrs} files came with extended attributes (capabilities, labels), which are not kept`);
    }
  }

  async write(): Promise<ImageReport> {
    const { format, output, compress = true, mtime, size, signal, toolPath } = this.options;
    const tree = mtime === undefined ? this.tree : withTime(this.tree, mtime);
    const image = this.spool.newPath();
    if (format === 'ext4') await writeExt4(tree, image, output, this.spool, { size, signal, toolPath });
    else {
      const archive = cpioArchive(tree, output);
      const file = createWriteStream(image, { flags: 'wx' });
      try {
        if (compress) await pipeline(archive, createGzip(), file, { signal });
        else await pipeline(archive, file, { signal });
      } catch (error) {
        throw hostFailure(output, error);
      }
    }
    try {
      await syncFile(image);
      await rename(image, output);
      const { size: imageBytes } = await stat(output);
      return { ...measured(tree), imageBytes, modules: this.modules, notes: this.notes, runConfig: this.runConfig };
    } catch (error) {
      throw hostFailure(output, error);
    }
  }

  private async addFolder(path: string): Promise<void> {
    const { tree, spool, budget } = this;
    const { devices = 'refuse', owner, signal, output } = this.options;
    const own = await Promise.all([lstat(spool.directory), lstat(output).catch(() => undefined)]);
    const without = new Set(own.filter((each) => each !== undefined).map(fileKey));
    const note = (text: string): void => {
      this.notes.push(text);
    };
    await addFolder(path, { tree, spool, budget, devices, owner, signal, without, note });
  }

  private async addContainer(source: Exclude<ImageSource, { kind: 'folder' | 'program' }>): Promise<void> {
    const store = await this.openStore(source);
    try {
      const image = await findImage(store, source.image);
      for (const layer of image.layers) await this.addLayer(store, layer);
      this.runConfig = addRunConfig(this.tree, image.config, 0, store.file);
    } finally {
      await store.close();
    }
  }

  private async openStore({ kind, path }: ImageSource): Promise<Store> {
    const { signal, maxBytes = DEFAULT_MAX_BYTES } = this.options;
    if (kind === 'oci-layout') {
      const present = await stat(path).catch((error: unknown) => {
        throw hostFailure(path, error);
      });
      if (present.isDirectory()) return new FolderStore(path);
    }
    if (!(await isGzip(path))) return TarStore.open(path, path, signal);
    // To go to and fro in it, it has to be unpacked.
    const { file, size } = await openRegular(path, true);
    try {
      const pieces = decompressed(piecesOf(new FileSource(file, 0, size)), path);
      const unpacked = this.spool.newPath();
      await pipeline(bounded(pieces, new Budget(maxBytes), path), createWriteStream(unpacked), { signal });
      return await TarStore.open(unpacked, path, signal);
    } catch (error) {
      throw hostFailure(path, error);
    } finally {
      await file.close();
    }
  }

  private async addLayer(store: Store, { part, digest, diffId }: ContainerImage['layers'][number]): Promise<void> {
    const { tree, spool, budget } = this;
    const { devices = 'refuse', signal, maxBytes = DEFAULT_MAX_BYTES } = this.options;
    const { file } = store;
    const stored = digest === undefined ? store.pieces(part) : verified(store.pieces(part), digest, file, part);
    // Headers and padding count as well: a layer of nothing but those would have no end otherwise.
    const unpacked = bounded(decompressed(stored, file), new Budget(2 * maxBytes), file);
    const archive = verified(unpacked, diffId, file, `the layer ${part}`);
    try {
      const source = new StreamSource(archive);
      const onXattrs = (): void => {
        this.xattrs++;
      };
      await applyLayer(new TarReader(source, file), file, { tree, spool, budget, devices, signal, onXattrs });
      // To the end, where the digests are looked at.
      for await (const piece of piecesOf(source)) if (piece.length > 0) signal?.throwIfAborted();
    } finally {
      await archive.return(undefined);
    }
  }

  private noteWhatIsMissing(): void {
    const { format, output } = this.options;
    const places = format === 'initramfs' ? ['init'] : ROOT_INITS;
    if (places.some((place) => this.tree.find(place.split('/'), output) !== undefined)) return;
    this.notes.push(
      format === 'initramfs'
        ? 'there is no /init in it, which the kernel would start: give one (--init), or name another (rdinit= on the command line)'
        : `there is none of /${ROOT_INITS.join(', /')} in it, which the kernel would start: give one (--init)`,
    );
  }
}

async function isGzip(path: string): Promise<boolean> {
  const { file, size } = await openRegular(path, true);
  try {
    const head = await new FileSource(file, 0, size).read(2);
    return head[0] === 0x1f && head[1] === 0x8b;
  } finally {
    await file.close();
  }
}

/** So that a crash of the host right after leaves no empty file where the old one was. */
async function syncFile(path: string): Promise<void> {
  const file = await open(path, 'r');
  try {
    await file.datasync();
  } finally {
    await file.close();
  }
}

/** `tree` with every file changed at `mtime`. */
function withTime(tree: Tree, mtime: number): Tree {
  for (const { inode } of tree.entries()) {
    inode.attributes = { ...inode.attributes, mtime: imageTime(mtime) };
  }
  return tree;
}

function measured(tree: Tree): { entries: number; contentBytes: number } {
  let entries = 0;
  for (const entry of tree.entries()) if (entry.path !== '') entries++;
  let contentBytes = 0;
  for (const inode of linkCounts(tree).keys()) if (inode.kind === 'file') contentBytes += contentSize(inode.content);
  return { entries, contentBytes };
}
