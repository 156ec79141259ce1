// What depmod(8) has written of a kernel's modules: which there are, what each needs, which are in the kernel itself; and the
// order in which to load some of them. Text in, names and paths out: this file reads nothing by itself.
//
// Formats: modules.dep(5), which modprobe reads, too; modules.builtin, a path a line; modules.softdep, in the words of
// modprobe.d(5); modules.alias. Left out: aliases with wildcards, which are for devices; options, blacklists and install
// commands of modprobe.d, which are the host's own.

import { ImageError } from './errors.js';
import { shown } from './names.js';

/** The texts of a folder /lib/modules/VERSION; what is not there is empty. */
export interface ModuleTexts {
  /** modules.dep. */
  readonly dependencies: string;
  /** modules.builtin. */
  readonly builtin: string;
  /** modules.softdep. */
  readonly soft: string;
  /** modules.alias. */
  readonly aliases: string;
}

interface Module {
  /** Below the folder. */
  readonly path: string;
  /** Paths of what it needs. */
  readonly needs: readonly string[];
}

interface SoftNeeds {
  /** What is better loaded before it, and after it, by name or alias. */
  readonly before: readonly string[];
  readonly after: readonly string[];
}

/** Several times what any kernel has. */
const MAX_DEPTH = 100;
const NO_SOFT_NEEDS: SoftNeeds = { before: [], after: [] };
const MADE_ANEW = 'run depmod for this kernel again';

/** The name of the module in the file `path`, as the kernel has it: "-" and "_" are the same. */
export function moduleName(path: string): string {
  const file = path.slice(path.lastIndexOf('/') + 1);
  return file.replace(/\.ko(\.(gz|xz|zst))?$/, '').replaceAll('-', '_');
}

/** What is known of one kernel's modules. */
export class ModuleIndex {
  private readonly modules = new Map<string, Module>();
  private readonly byPath = new Map<string, Module>();
  private readonly builtin: ReadonlySet<string>;
  private readonly soft: ReadonlyMap<string, SoftNeeds>;
  private readonly aliasTexts: string;
  private knownAliases: ReadonlyMap<string, readonly string[]> | undefined;
  private readonly file: string;

  /** `file` is modules.dep in errors. Throws ImageError bad-modules. */
  constructor(texts: ModuleTexts, file: string) {
    this.file = file;
    for (const [number, line] of linesOf(texts.dependencies)) this.addModule(line, number);
    this.builtin = new Set([...linesOf(texts.builtin)].map(([, line]) => moduleName(line)));
    this.soft = softNeeds(texts.soft);
    this.aliasTexts = texts.aliases;
  }

  /** The modules that the kernel would ask for to mount a file system of this type; none if it has it in itself. */
  forFileSystem(type: string): readonly string[] {
    if (this.find(type) !== undefined) return [type];
    return this.aliases.get(moduleName(`fs-${type}`)) ?? [];
  }

  /** Read when first needed: some kernels have 50,000. */
  private get aliases(): ReadonlyMap<string, readonly string[]> {
    this.knownAliases ??= exactAliases(this.aliasTexts);
    return this.knownAliases;
  }

  /** Where the module is: in a file, in the kernel, or nowhere. */
  find(name: string): 'module' | 'builtin' | undefined {
    const known = moduleName(name);
    if (this.modules.has(known)) return 'module';
    return this.builtin.has(known) ? 'builtin' : undefined;
  }

  /**
   * The paths of the modules `names` and of all that they need, each behind what it needs itself. Names that are no modules
   * are passed over. Throws ImageError bad-modules for needs in a circle, or of what is not there.
   */
  inOrder(names: readonly string[]): string[] {
    const order = new Set<string>();
    for (const name of names) {
      const module = this.modules.get(moduleName(name));
      if (module !== undefined) this.visit(module, [], order);
    }
    return [...order];
  }

  /** Adds `module` to `order`, what it needs before it. `above` are the modules that wait for it. */
  private visit(module: Module, above: readonly Module[], order: Set<string>): void {
    if (order.has(module.path)) return;
    this.checkWay(module, above);
    const way = [...above, module];
    const { before, after } = this.soft.get(moduleName(module.path)) ?? NO_SOFT_NEEDS;
    for (const each of this.softNeeded(before, way)) this.visit(each, way, order);
    for (const each of this.needsOf(module)) this.visit(each, way, order);
    order.add(module.path);
    for (const each of this.softNeeded(after, above)) this.visit(each, above, order);
  }

  private checkWay(module: Module, above: readonly Module[]): void {
    if (above.includes(module)) {
      const detail = `${shown(above.at(-1)?.path ?? '')} needs ${shown(module.path)}, which needs it in turn`;
      throw new ImageError('bad-modules', this.file, detail, MADE_ANEW);
    }
    if (above.length === MAX_DEPTH) {
      const detail = `${shown(above[0].path)} needs others, and those others, ${MAX_DEPTH} times over`;
      throw new ImageError('bad-modules', this.file, detail, MADE_ANEW);
    }
  }

  /** The last of the line needs nothing of the others, so it comes first. */
  private needsOf(module: Module): Module[] {
    return module.needs
      .map((path) => {
        const needed = this.byPath.get(path);
        if (needed !== undefined) return needed;
        const detail = `${shown(module.path)} needs ${shown(path)}, which has no line of its own`;
        throw new ImageError('bad-modules', this.file, detail, MADE_ANEW);
      })
      .reverse();
  }

  /** The modules that `names` mean, but those that need one of `way`: that wait for them, and a soft need may be left out. */
  private softNeeded(names: readonly string[], way: readonly Module[]): Module[] {
    return names
      .flatMap((name) => (this.modules.has(moduleName(name)) ? [name] : (this.aliases.get(moduleName(name)) ?? [])))
      .map((name) => this.modules.get(moduleName(name)))
      .filter((module) => module !== undefined)
      .filter((module) => !this.allNeededBy(module).some((each) => way.includes(each)));
  }

  private allNeededBy(module: Module): Module[] {
    const all = new Set([module]);
    // A set goes on with what is added while it is gone through.
    for (const each of all) for (const needed of this.needsOf(each)) all.add(needed);
    return [...all];
  }

  private addModule(line: string, number: number): void {
    const colon = line.indexOf(':');
    if (colon <= 0) {
      throw new ImageError('bad-modules', this.file, `line ${number} is no "module: what it needs"`, MADE_ANEW);
    }
    const path = this.checkedPath(line.slice(0, colon), number);
    const needs = line
      .slice(colon + 1)
      .split(/[ \t]+/)
      .filter((each) => each !== '')
      .map((each) => this.checkedPath(each, number));
    const module = { path, needs };
    this.byPath.set(path, module);
    this.modules.set(moduleName(path), module);
  }

  /** A module below the folder, and nothing else: its path becomes one of the host. */
  private checkedPath(path: string, number: number): string {
    const components = path.split('/');
    const leadsOut = components.includes('..') || components.includes('');
    if (leadsOut || /[\0\n\r\s]/.test(path) || !/\.ko(\.(gz|xz|zst))?$/.test(path)) {
      const detail = `line ${number} names ${shown(path)}, which is no module below this folder`;
      throw new ImageError('bad-modules', this.file, detail, MADE_ANEW);
    }
    return path;
  }
}

function* linesOf(text: string): Generator<[number, string]> {
  let number = 0;
  for (const raw of text.split('\n')) {
    number++;
    const line = raw.trim();
    if (line !== '' && !line.startsWith('#')) yield [number, line];
  }
}

/** "softdep NAME pre: A B post: C": without "pre:" or "post:" nothing is said. */
function softNeeds(text: string): Map<string, SoftNeeds> {
  const all = new Map<string, { before: string[]; after: string[] }>();
  for (const [, line] of linesOf(text)) {
    const match = /^softdep\s+(\S+)\s+(.*)$/.exec(line);
    if (match === null) continue;
    const [, name, rest] = match;
    const needs = all.get(moduleName(name)) ?? { before: [], after: [] };
    all.set(moduleName(name), needs);
    let list: string[] | undefined;
    for (const word of rest.split(/\s+/)) {
      if (word === 'pre:') list = needs.before;
      else if (word === 'post:') list = needs.after;
      else list?.push(word);
    }
  }
  return all;
}

/** "alias PATTERN MODULE": several modules may have the same. */
function exactAliases(text: string): Map<string, string[]> {
  const aliases = new Map<string, string[]>();
  for (const [, line] of linesOf(text)) {
    const match = /^alias\s+([^\s*?[]+)\s+(\S+)$/.exec(line);
    if (match === null) continue;
    const [, pattern, name] = match;
    const known = moduleName(pattern);
    const names = aliases.get(known);
    if (names === undefined) aliases.set(known, [name]);
    else names.push(name);
  }
  return aliases;
}
