// A web page that a microVM serves through vsock, and a live page about that microVM: its console, what goes through its
// vsock device, pause and resume.
//
//   node dist/examples/web/main.js              then open the address that it prints
//   node dist/examples/web/main.js --port 8080
//
// The guest is the one built into tsvmm: no kernel, no disk, no network. There is no server but node:http, and the page is
// plain HTML, CSS and TypeScript. In a program of your own the library's import is 'tsvmm'.

import { once } from 'node:events';
import { parseArgs } from 'node:util';
import { runProgram, UsageError, wholeNumber } from '../program.js';
import { Machine } from './machine.js';
import { serve } from './server.js';

const USAGE = `usage: node dist/examples/web/main.js [--port N]

Boots a microVM and serves, on loopback only:
  /         a live page: the guest's console, a plot of what goes through vsock, pause and resume
  /guest/   the page that the guest itself serves, over vsock

  --port N  the TCP port; any that is free unless told

Ctrl-C ends both.
`;

await runProgram(USAGE, async (signal) => {
  const { values } = parseArgs({ options: { port: { type: 'string', default: '0' } } });
  const port = wholeNumber('port', values.port, 0, 65535);
  await using machine = await Machine.boot();
  const server = await serve(machine, port).catch((error: unknown) => {
    throw new UsageError(`--port: ${port} cannot be had (${String(error)}); name another one, or none`);
  });
  try {
    console.log(`the page is at ${server.url}; Ctrl-C ends it`);
    void machine.vm.exited.then(() => {
      if (!signal.aborted) console.log('the VM has ended; the page still says how');
    });
    if (!signal.aborted) await once(signal, 'abort');
  } finally {
    await server.close();
  }
  return 0;
});
