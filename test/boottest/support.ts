// For tests of boot tests: specs in files, results, and JUnit files as an XML parser sees them.

import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { SaxesParser } from 'saxes';
import { planTests, type PlannedTest } from '../../src/boottest/plan.js';
import { Finding, type TestResult } from '../../src/boottest/result.js';
import { readSpec } from '../../src/boottest/spec.js';

/** The tests that a spec with this text leads to. */
export async function plan(directory: string, text: string, name = 'spec.yaml'): Promise<PlannedTest[]> {
  const path = join(directory, name);
  writeFileSync(path, text);
  return planTests(await readSpec(path));
}

export function resultOf(test: PlannedTest, finding?: Finding, output = ''): TestResult {
  return { test, verdict: finding?.verdict ?? 'passed', finding, durationMs: 1500, output, logs: [] };
}

export interface XmlElement {
  readonly name: string;
  readonly attributes: Readonly<Record<string, string>>;
  readonly children: XmlElement[];
  text: string;
}

/** The root of a document, which must be well-formed. */
export function parseXml(text: string): XmlElement {
  const document: XmlElement = { name: '', attributes: {}, children: [], text: '' };
  const open = [document];
  const parser = new SaxesParser();
  parser.on('error', (error) => {
    throw error;
  });
  parser.on('opentag', ({ name, attributes }) => {
    const element: XmlElement = { name, attributes, children: [], text: '' };
    open.at(-1)?.children.push(element);
    open.push(element);
  });
  parser.on('text', (piece) => {
    const element = open.at(-1);
    if (element !== undefined) element.text += piece;
  });
  parser.on('closetag', () => {
    open.pop();
  });
  parser.write(text).close();
  const [root] = document.children;
  return root;
}
