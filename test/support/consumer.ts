// A TypeScript project that has installed this package, to see what its users' compiler says. Unit tests, main thread.
//
// The package is copied into the project's node_modules as far as a compiler looks at it: package.json and declarations, of
// the folders that are published. Beside it are its dependencies and what a user has of Node's and Jest's types, and nothing
// else of this checkout: a declaration that needs more is an error there.

import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import ts from 'typescript';

const ROOT = fileURLToPath(new URL('../../..', import.meta.url));
/** What users have of their own: the types of Node, and of Jest as npm lays it out. */
const OF_THE_USER = ['@types/node', '@jest/globals', 'expect'];

interface Manifest {
  readonly files: readonly string[];
  readonly dependencies: Readonly<Record<string, string>>;
}

export type Resolution = 'nodenext' | 'bundler';

export class Consumer {
  readonly folder = mkdtempSync(join(tmpdir(), 'tsvmm-consumer-'));
  private readonly parsed = new Map<string, ts.SourceFile | undefined>();

  constructor() {
    const manifest = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as Manifest;
    const installed = join(this.folder, 'node_modules', 'tsvmm');
    mkdirSync(installed, { recursive: true });
    cpSync(join(ROOT, 'package.json'), join(installed, 'package.json'));
    for (const folder of manifest.files.filter((path) => path.startsWith('dist'))) {
      cpSync(join(ROOT, folder), join(installed, folder), {
        recursive: true,
        filter: (path) => !/\.(js|map)$/.test(path),
      });
    }
    for (const name of [...Object.keys(manifest.dependencies), ...OF_THE_USER]) {
      const link = join(this.folder, 'node_modules', name);
      mkdirSync(dirname(link), { recursive: true });
      symlinkSync(join(ROOT, 'node_modules', name), link);
    }
    writeFileSync(join(this.folder, 'package.json'), '{ "type": "module" }');
  }

  /** What the compiler says about a project of these files, as lines; nothing of a third party's declarations is left out. */
  check(files: Readonly<Record<string, string>>, resolution: Resolution): string[] {
    const paths = Object.entries(files).map(([name, text]) => {
      const path = join(this.folder, name);
      writeFileSync(path, text);
      return path;
    });
    const options: ts.CompilerOptions = {
      target: ts.ScriptTarget.ES2023,
      lib: ['lib.es2023.d.ts', 'lib.esnext.disposable.d.ts'],
      module: resolution === 'nodenext' ? ts.ModuleKind.NodeNext : ts.ModuleKind.ESNext,
      moduleResolution: resolution === 'nodenext' ? ts.ModuleResolutionKind.NodeNext : ts.ModuleResolutionKind.Bundler,
      types: ['node'],
      strict: true,
      exactOptionalPropertyTypes: true,
      skipLibCheck: false,
      noEmit: true,
    };
    const program = ts.createProgram(paths, options, this.host(options, resolution));
    return ts.getPreEmitDiagnostics(program).map((diagnostic) => this.show(diagnostic));
  }

  dispose(): void {
    rmSync(this.folder, { recursive: true });
  }

  /** Parses what several projects have in common once. How a file is parsed depends on the resolution, too. */
  private host(options: ts.CompilerOptions, resolution: Resolution): ts.CompilerHost {
    const host = ts.createCompilerHost(options);
    const parse = host.getSourceFile.bind(host);
    host.getCurrentDirectory = () => this.folder;
    host.getSourceFile = (path, how) => {
      if (!path.endsWith('.d.ts')) return parse(path, how);
      const key = `${resolution} ${path}`;
      if (!this.parsed.has(key)) this.parsed.set(key, parse(path, how));
      return this.parsed.get(key);
    };
    return host;
  }

  private show({ file, start, messageText }: ts.Diagnostic): string {
    const text = ts.flattenDiagnosticMessageText(messageText, '\n');
    if (file === undefined || start === undefined) return text;
    const { line } = file.getLineAndCharacterOfPosition(start);
    return `${file.fileName.replace(`${this.folder}/`, '')}:${line + 1}: ${text}`;
  }
}
