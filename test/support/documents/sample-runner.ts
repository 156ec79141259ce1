// Runs a sample of a document in a process of its own: `node sample-runner.js SAMPLE [name...]`. The names are what the
// sample takes for granted, as global variables; every VM that it makes is stopped when it has ended, for samples leave
// that out where it is not their subject.

import { pathToFileURL } from 'node:url';
import { resolve } from 'node:path';
import { Vm, VsockError } from '../../../src/index.js';
import type { VmConfig } from '../../../src/config/vm-config.js';
import { MIB } from '../../../src/platform/units.js';
import { LINUX_MEMORY } from './linux-words.js';
import { PLACEHOLDER_FILES } from './placeholders.js';

const [sample = '', ...names] = process.argv.slice(2);
/** Set where a Linux of the tests is booted; see linux-words.ts. */
const words = process.env['TSVMM_DOCUMENT_WORDS'];

/** What samples may be given; test/docs/samples.test.ts has their types. */
const GIVEN: Readonly<Record<string, () => unknown>> = {
  ...Object.fromEntries(Object.entries(PLACEHOLDER_FILES).map(([name, file]) => [name, () => file])),
  config: () => ({ serial: { mode: 'Null' } }),
  /** A running VM of the built-in guest. */
  vm: async () => {
    const vm = await Vm.create({ serial: { mode: 'Null' }, vsock: { cid: 3 } });
    await vm.start();
    await vm.console.waitFor('type help');
    return vm;
  },
};

const made: Vm[] = [];
const create = Vm.create.bind(Vm);
const restore = Vm.restore.bind(Vm);
Vm.create = async (config, ...rest) => {
  const vm = await create(words === undefined ? config : withWords(config, words), ...rest);
  made.push(vm);
  return vm;
};
Vm.restore = async (...args) => {
  const vm = await restore(...args);
  made.push(vm);
  return vm;
};

try {
  for (const name of names) {
    if (!Object.hasOwn(GIVEN, name)) throw new Error(`with=${name}: there are ${Object.keys(GIVEN).join(', ')}`);
    Object.assign(globalThis, { [name]: await GIVEN[name]() });
  }
  await import(pathToFileURL(resolve(sample)).href);
} finally {
  // Streams that a fragment leaves open fail now, with nobody there to hear it.
  process.on('uncaughtException', (error) => {
    if (error instanceof VsockError) return;
    console.error(error);
    process.exit(1);
  });
  await Promise.all(made.map((vm) => vm.stop()));
}

function withWords<T>(config: T, more: string): T {
  const { payload, memory } = config as { readonly payload?: Partial<VmConfig['payload']>; readonly memory?: object };
  if (payload?.kernel === undefined) return config;
  const cmdline = `${payload.cmdline ?? 'console=ttyS0 reboot=k panic=-1'} ${more}`;
  return { ...config, payload: { ...payload, cmdline }, memory: memory ?? { size: LINUX_MEMORY * MIB } };
}
