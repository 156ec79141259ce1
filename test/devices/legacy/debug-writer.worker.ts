// One vCPU that writes numbered lines to the debug console, for debug-console.test.ts.

import { workerData } from 'node:worker_threads';
import { DebugConsole, type DebugConsoleShared } from '../../../src/devices/legacy/debug-console.js';

export interface DebugWriterSetup {
  readonly shared: DebugConsoleShared;
  readonly name: string;
  readonly lines: number;
}

const { shared, name, lines } = workerData as DebugWriterSetup;
const port = new DebugConsole(shared, () => undefined);
for (let line = 0; line < lines; line++) port.writeString(Buffer.from(`${name}${line}\n`));
