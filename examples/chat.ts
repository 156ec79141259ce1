// Two microVMs that talk to each other over vsock. What you type goes to one guest and comes out of the other.
//
//   node dist/examples/chat.js                        then type; "bob: hello" is typed at bob's console
//   printf 'hello\n' | node dist/examples/chat.js
//
// The guests are the ones built into tsvmm: no kernel, no network, no socket. In a program of your own the first import
// is 'tsvmm'.

import { createInterface } from 'node:readline/promises';
import { parseArgs } from 'node:util';
import { Vm, type WaitOptions } from '../src/index.js';
import { runProgram } from './program.js';

const USAGE = `usage: node dist/examples/chat.js

Starts two microVMs, alice and bob, that are connected by vsock. Each line of standard input is typed at alice's console
and comes out of bob's; a line that begins with "bob: " goes the other way. Ends with the input, or with a lone dot.
`;

const MIB = 2 ** 20;
const CHAT_PORT = 5000;
/** What the guest's line editor takes. */
const MAX_LINE = 255;

/** A guest with its console, of which each part is looked at once. */
class Guest {
  readonly name: string;
  readonly vm: Vm;
  private seen = 0;

  private constructor(name: string, vm: Vm) {
    this.name = name;
    this.vm = vm;
  }

  static async create(name: string, cid: number): Promise<Guest> {
    const memory = { size: 32 * MIB };
    return new Guest(name, await Vm.create({ memory, serial: { mode: 'Null' }, vsock: { cid } }));
  }

  /** Waits for `pattern` behind what was waited for before; returns what its group captured. */
  async prints(pattern: string | RegExp, options: WaitOptions): Promise<string> {
    const match = await this.vm.console.waitFor(pattern, { ...options, from: this.seen });
    this.seen = match.end;
    return match.captures[0] ?? match.text;
  }

  /** Types a line, and waits until the console has echoed it. */
  async type(line: string, options: WaitOptions): Promise<void> {
    await this.vm.console.write(`${line}\r`);
    await this.prints(`${line}\r\n`, options);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.vm.stop();
  }
}

/** Lets `caller` call `listener`. They know each other by their context ids. */
async function connect(caller: Guest, listener: Guest, wait: WaitOptions): Promise<void> {
  await Promise.all([caller, listener].map((guest) => guest.prints('type help\r\n> ', wait)));
  await listener.type(`listen ${CHAT_PORT}`, wait);
  await listener.prints('listening', wait);
  await caller.type(`chat ${listener.vm.vsock.cid}:${CHAT_PORT}`, wait);
  await Promise.all([caller, listener].map((guest) => guest.prints('connected; a lone . ends it\r\n', wait)));
}

/** Lines typed here go to one guest and are shown as they come out of the other. */
async function talk(alice: Guest, bob: Guest, signal: AbortSignal): Promise<void> {
  const lines = createInterface({ input: process.stdin, signal });
  for await (const typed of lines) {
    const toBob = /^bob: ?/.exec(typed);
    const [speaker, hearer] = toBob === null ? [alice, bob] : [bob, alice];
    // The guest's console knows printable ASCII.
    const line = typed.slice(toBob?.[0].length ?? 0, MAX_LINE).replace(/[^ -~]/g, '?');
    if (line === '.') break;
    await speaker.type(line, { signal });
    console.log(`${hearer.name} hears: ${await hearer.prints(/^< (.*)\r\n/m, { signal })}`);
  }
  signal.throwIfAborted();
}

await runProgram(USAGE, async (signal) => {
  parseArgs({ options: {} });
  // `await using`: they are stopped when the block is left, however that comes about.
  await using alice = await Guest.create('alice', 3);
  await using bob = await Guest.create('bob', 4);
  // By this each guest reaches the other's context id. VMs of two processes name each other's sockets instead (`peers`).
  alice.vm.vsock.join(bob.vm);
  for (const { vm } of [alice, bob]) await vm.start();

  await connect(alice, bob, { signal, timeout: 10_000 });
  console.log('alice and bob are connected; type something');
  await talk(alice, bob, signal);
  await alice.type('.', { signal });
  await bob.prints('closed by the guest', { signal });
  console.log('alice has hung up');
  return 0;
});
