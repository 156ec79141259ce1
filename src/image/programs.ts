// Puts programs of the host into a tree, each at its own path, with the loader and the libraries that it needs, at the paths
// where the loader will look in the guest. Everything belongs to root there.
//
// The order in which libraries are looked for is that of ld.so(8) without a cache, which the guest has none of: DT_RPATH of
// the file and of those that need it, DT_RUNPATH, then the directories that the loader knows. A library that the host only
// finds through /etc/ld.so.conf is put into such a directory. For musl: /etc/ld-musl-x86_64.path, or what it has built in.

import { access, constants, readdir, readFile, realpath, stat } from 'node:fs/promises';
import { basename, delimiter, dirname, isAbsolute, join, resolve } from 'node:path';
import type { Budget } from './budget.js';
import { type Executable, readExecutable } from './elf-dependencies.js';
import { hostFailure, ImageError } from './errors.js';
import { imageTime } from './layer.js';
import { nameFromHost, splitPath } from './names.js';
import type { Inode, Tree } from './tree.js';

/** Where glibc's loader looks in the end, on Debian and on the others. */
const GLIBC_DIRECTORIES = [
  '/lib/x86_64-linux-gnu',
  '/usr/lib/x86_64-linux-gnu',
  '/lib64',
  '/usr/lib64',
  '/lib',
  '/usr/lib',
];
const MUSL_DIRECTORIES = ['/lib', '/usr/local/lib', '/usr/lib'];
/** What musl has in itself, whatever else is in the file system. */
const MUSL_OWN = /^lib(c|pthread|rt|m|dl|util|xnet)\./;
/** Scripts whose interpreter is a script: as many as Linux follows. */
const MAX_SCRIPTS = 5;

export interface ProgramContext {
  readonly tree: Tree;
  readonly budget: Budget;
  readonly signal: AbortSignal | undefined;
  /** The host's root directory; a test has its own. */
  readonly root?: string;
  readonly note: (text: string) => void;
}

/** The file of the host that `name` means: a path, or a name to be looked for in PATH. Throws ImageError not-found. */
export async function findProgram(name: string, searchPath = process.env['PATH'] ?? ''): Promise<string> {
  if (name.includes('/')) return resolve(name);
  for (const folder of searchPath.split(delimiter).filter(isAbsolute)) {
    const path = join(folder, name);
    const isProgram = await access(path, constants.X_OK).then(
      async () => (await stat(path)).isFile(),
      () => false,
    );
    if (isProgram) return path;
  }
  throw new ImageError('not-found', name, 'no such program in PATH', 'name its path');
}

/** Puts programs into a tree; a library that several need is there once. */
export class ProgramAdder {
  private readonly context: ProgramContext;
  private readonly root: string;
  /** Paths in the image that have been put there. */
  private readonly added = new Set<string>();
  /** Names of loaders: they are in memory before any library, so nothing that needs one looks for it. */
  private readonly loaders = new Set<string>();
  private configured: Promise<string[]> | undefined;

  constructor(context: ProgramContext) {
    this.context = context;
    this.root = context.root ?? '';
  }

  /** Puts `program`, a path of the host, to `place` and all that it needs beside it. Throws ImageError. */
  async add(program: string, place = program, scripts = 0): Promise<void> {
    if (this.added.has(place)) return;
    const host = this.root + program;
    const executable = await readExecutable(host);
    if (executable.kind === 'other') {
      throw new ImageError(
        'wrong-kind',
        program,
        `it is ${executable.what}`,
        'name a program for x86-64 Linux, or a script',
      );
    }
    await this.put(host, place);
    await this.putShortName(place);
    if (executable.kind === 'script') {
      if (scripts === MAX_SCRIPTS) {
        throw new ImageError('bad-link', program, 'its interpreter is a script, and so on', 'name what runs it');
      }
      if (basename(executable.interpreter) === 'env') {
        this.context.note(`${program} is run by ${executable.interpreter}: name the program that it looks for, too`);
      }
      await this.add(executable.interpreter, executable.interpreter, scripts + 1);
      return;
    }
    const { interpreter } = executable;
    if (interpreter === undefined && executable.needed.length === 0) return;
    const isMusl = basename(interpreter ?? '').startsWith('ld-musl-');
    if (interpreter !== undefined) {
      this.loaders.add(basename(interpreter));
      await this.addLibrary(interpreter, interpreter, [], isMusl);
    }
    await this.addNeeded(executable, place, [], isMusl, program);
  }

  private async addLibrary(host: string, place: string, rpaths: readonly string[], isMusl: boolean): Promise<void> {
    if (this.added.has(place)) return;
    const executable = await readExecutable(this.root + host);
    if (executable.kind !== 'elf') {
      throw new ImageError('bad-elf', host, 'it is no library for x86-64', 'install the library again');
    }
    await this.put(this.root + host, place);
    await this.addNeeded(executable, place, rpaths, isMusl, host);
  }

  /** `inherited` are the DT_RPATHs of what has needed this file. */
  private async addNeeded(
    executable: Extract<Executable, { kind: 'elf' }>,
    place: string,
    inherited: readonly string[],
    isMusl: boolean,
    program: string,
  ): Promise<void> {
    const expand = (directory: string): string =>
      directory
        .replaceAll(/\$ORIGIN|\$\{ORIGIN\}/g, dirname(place))
        .replaceAll(/\$LIB|\$\{LIB\}/g, 'lib/x86_64-linux-gnu');
    // DT_RPATH counts only without a DT_RUNPATH, and is inherited; DT_RUNPATH is not.
    const rpaths = executable.runpath.length > 0 ? inherited : [...executable.rpath.map(expand), ...inherited];
    const own = [...(executable.runpath.length > 0 ? [] : rpaths), ...executable.runpath.map(expand)];
    for (const name of executable.needed) {
      this.context.signal?.throwIfAborted();
      if (this.loaders.has(name) || (isMusl && MUSL_OWN.test(name))) continue;
      const { host, place: libraryPlace } = await this.locate(name, own, isMusl, program);
      await this.addLibrary(host, libraryPlace, rpaths, isMusl);
    }
  }

  private async locate(
    name: string,
    own: readonly string[],
    isMusl: boolean,
    program: string,
  ): Promise<{ host: string; place: string }> {
    if (name.includes('/')) {
      if (isAbsolute(name)) return { host: name, place: name };
      const mend = 'build it without a path in the name of the library';
      throw new ImageError('missing-library', program, `it needs ${name}, relative to wherever it is started`, mend);
    }
    const known = isMusl ? await this.muslDirectories() : GLIBC_DIRECTORIES;
    for (const directory of [...own.filter(isAbsolute), ...known]) {
      const path = join(directory, name);
      if (await this.isLibrary(path)) return { host: path, place: path };
    }
    if (!isMusl) {
      this.configured ??= this.readConfigured();
      for (const directory of await this.configured) {
        const path = join(directory, name);
        if (await this.isLibrary(path)) return { host: path, place: join(await this.someKnownDirectory(), name) };
      }
    }
    const mend = 'install the package that has it';
    throw new ImageError('missing-library', program, `it needs the library ${name}, which is not on this host`, mend);
  }

  /** The loader passes over files for other machines, and so does this. */
  private async isLibrary(path: string): Promise<boolean> {
    try {
      return (await readExecutable(this.root + path)).kind === 'elf';
    } catch (error) {
      if (error instanceof ImageError) return false;
      throw error;
    }
  }

  private async someKnownDirectory(): Promise<string> {
    for (const directory of GLIBC_DIRECTORIES) {
      const exists = await access(this.root + directory).then(
        () => true,
        () => false,
      );
      if (exists) return directory;
    }
    return '/lib64';
  }

  private async muslDirectories(): Promise<string[]> {
    const text = await this.text('/etc/ld-musl-x86_64.path');
    const listed = text.split(/[:\n]/).filter(isAbsolute);
    return listed.length > 0 ? listed : MUSL_DIRECTORIES;
  }

  /** The directories of /etc/ld.so.conf and what it includes, which is /etc/ld.so.conf.d/*.conf everywhere. */
  private async readConfigured(): Promise<string[]> {
    const names = await readdir(`${this.root}/etc/ld.so.conf.d`).catch(() => []);
    const files = [
      '/etc/ld.so.conf',
      ...names
        .filter((name) => name.endsWith('.conf'))
        .sort()
        .map(inConfigured),
    ];
    const texts = await Promise.all(files.map((file) => this.text(file)));
    const lines = texts.join('\n').split('\n');
    return lines.map((line) => line.replace(/#.*/, '').trim()).filter(isAbsolute);
  }

  private text(path: string): Promise<string> {
    return readFile(this.root + path, 'utf8').catch(() => '');
  }

  /**
   * Where /bin is a link to /usr/bin, as on most hosts, programs have two names, and scripts and kernels use the short one:
   * /bin/sh. One link for each program: a link for all would be in the way of a folder or a layer that has its own /bin.
   */
  private async putShortName(place: string): Promise<void> {
    if (!/^\/usr\/s?bin\/[^/]+$/.test(place)) return;
    const name = place.slice('/usr'.length);
    const [long, short] = await Promise.all(
      [place, name].map((path) => realpath(this.root + path).catch(() => undefined)),
    );
    const path = splitPath(nameFromHost(name), place);
    const { tree, budget } = this.context;
    if (long === undefined || long !== short || tree.find(path, place) !== undefined) return;
    budget.takeEntry(place);
    const attributes = { mode: 0o777, uid: 0, gid: 0, mtime: 0 };
    tree.put(path, { kind: 'symlink', attributes, target: place }, place);
  }

  private async put(host: string, place: string): Promise<void> {
    const { tree, budget } = this.context;
    this.added.add(place);
    budget.takeEntry(host);
    let inode: Inode;
    try {
      const { mode, mtimeMs, size } = await stat(host);
      await access(host, constants.R_OK);
      budget.takeBytes(size, host);
      const attributes = { mode: mode & 0o7777, uid: 0, gid: 0, mtime: imageTime(mtimeMs / 1000) };
      // The file itself: its content is read without following links.
      inode = { kind: 'file', attributes, content: { kind: 'host', path: await realpath(host), size } };
    } catch (error) {
      throw hostFailure(host, error);
    }
    tree.put(splitPath(nameFromHost(place), host), inode, host);
  }
}

function inConfigured(name: string): string {
  return `/etc/ld.so.conf.d/${name}`;
}
