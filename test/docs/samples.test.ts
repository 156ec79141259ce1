// The samples in JavaScript and TypeScript are right for the compiler: the names that they import exist, and their arguments
// and results have the types that the declarations say.

import { describe, expect, test } from '@jest/globals';
import ts from 'typescript';
import { CHECKOUT, documentPaths, planDocument } from '../support/documents/sessions.js';

/** What a document takes for granted in a sample (`with=`), and what Jest gives a file of tests. */
const GLOBALS = `
import type { Vm } from 'tsvmm';
declare global {
  const vm: Vm;
  const config: Parameters<typeof Vm.create>[0];
  const kernel: string;
  const initramfs: string;
}
`;

interface Sample {
  readonly name: string;
  readonly text: string;
}

/** Those that are run, and those that are not. */
const samples: Sample[] = documentPaths().flatMap((path) => {
  const { sessions, untested } = planDocument(path);
  const blocks = [...sessions.flatMap(({ steps }) => steps), ...untested.map(({ block }) => block)];
  return blocks
    .filter(({ language }) => language === 'js' || language === 'ts')
    .map(({ line, text }) => ({ name: `${path}:${line}`, text }));
});

/** What the compiler has against them. */
function complaints(checked: readonly Sample[]): string[] {
  const options: ts.CompilerOptions = {
    target: ts.ScriptTarget.ES2023,
    lib: ['lib.es2023.d.ts', 'lib.esnext.disposable.d.ts'],
    module: ts.ModuleKind.NodeNext,
    moduleResolution: ts.ModuleResolutionKind.NodeNext,
    types: ['node'],
    strict: true,
    noEmit: true,
    skipLibCheck: true,
  };
  const host = ts.createCompilerHost(options);
  // In the checkout, so that `tsvmm` is the package that they are in. None of them is written.
  const path = (name: string): string => `${CHECKOUT}/${name.replaceAll(/[/:]/g, '-')}.mts`;
  const virtual = new Map([...checked, { name: 'globals', text: GLOBALS }].map(({ name, text }) => [path(name), text]));
  const fileExists = host.fileExists.bind(host);
  const readFile = host.readFile.bind(host);
  host.getCurrentDirectory = () => CHECKOUT;
  host.fileExists = (name) => virtual.has(name) || fileExists(name);
  host.readFile = (name) => virtual.get(name) ?? readFile(name);
  const program = ts.createProgram([...virtual.keys()], options, host);
  return ts.getPreEmitDiagnostics(program).map(({ file, start = 0, messageText }) => {
    const line = file === undefined ? 0 : file.getLineAndCharacterOfPosition(start).line + 1;
    return `${file?.fileName.replace(`${CHECKOUT}/`, '') ?? ''}, line ${line} of it: ${ts.flattenDiagnosticMessageText(messageText, ' ')}`;
  });
}

describe('the samples of the documents', () => {
  test('there are some', () => {
    expect(samples.length).toBeGreaterThan(5);
  });

  test('a mistake would be found', () => {
    const text = "import { Vm } from 'tsvmm';\n\nawait Vm.create({ serial: 'Null' });\nawait vm.stpo();\n";
    const [first, second] = complaints([{ name: 'mistake', text }]);
    expect(first).toMatch(/^mistake.mts, line 3 of it: Type 'string' is not assignable/);
    expect(second).toMatch(/^mistake.mts, line 4 of it: Property 'stpo' does not exist/);
  }, 60_000);

  test('compile against the declarations of the package', () => {
    expect(complaints(samples)).toEqual([]);
  }, 60_000);
});
