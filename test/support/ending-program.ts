// A user's program with VMs that ends without stopping them: run by tests as a process of its own. Its arguments are how, and a
// folder for sockets.

import { setTimeout as delay } from 'node:timers/promises';
import { Vm, type VmConfigInput } from '../../src/index.js';

const [how = '', folder = '', moment = '0'] = process.argv.slice(2);

function config(name: string): VmConfigInput {
  return {
    memory: { size: 64 * 1024 * 1024 },
    cpus: { boot_vcpus: 2 },
    serial: { mode: 'Socket', socket: `${folder}/${name}.serial` },
    console: { mode: 'Null' },
    vsock: { cid: 3, socket: `${folder}/${name}.vsock` },
    balloon: { size: 0 },
  };
}

async function boot(name: string): Promise<Vm> {
  const vm = await Vm.create(config(name));
  await vm.start();
  return vm;
}

async function booted(name: string): Promise<Vm> {
  const vm = await boot(name);
  await vm.console.waitFor('> ');
  return vm;
}

const WAYS: Readonly<Record<string, () => Promise<void>>> = {
  async exit() {
    await Promise.all([booted('a'), booted('b')]);
    process.exit(5);
  },
  async 'exit-paused'() {
    const vm = await booted('a');
    await vm.pause();
    process.exit(5);
  },
  async 'exit-unstarted'() {
    await Vm.create(config('a'));
    process.exit(5);
  },
  async 'exit-stopping'() {
    const vm = await booted('a');
    void vm.stop();
    process.exit(5);
  },
  /** A VM every 20 ms, until it ends at some moment in between. */
  async 'exit-at'() {
    setTimeout(() => process.exit(5), Number(moment));
    for (let count = 0; ; count++) {
      void boot(`vm${count % 4}`)
        .then((vm) => delay(30, vm))
        .then((vm) => vm.stop())
        // Its socket may be another's.
        .catch(() => undefined);
      await delay(20);
    }
  },
  async uncaught() {
    await booted('a');
    setImmediate(() => {
      throw new Error('nobody catches this');
    });
  },
  async rejection() {
    await booted('a');
    void Promise.reject(new Error('nobody catches this'));
  },
  async listener() {
    const vm = await booted('a');
    vm.events.on('paused', () => {
      throw new Error('nobody catches this');
    });
    await vm.pause();
  },
  async 'console-listener'() {
    const vm = await booted('a');
    vm.console.onOutput(() => {
      throw new Error('nobody catches this');
    });
    await vm.console.write(Buffer.from('help\r'));
  },
  /** Caught by the program: everything goes on. */
  async 'caught-listener'() {
    const caught = new Promise((resolve) => process.on('uncaughtException', resolve));
    const vm = await booted('a');
    vm.events.on('paused', () => {
      throw new Error('the program catches this');
    });
    await vm.pause();
    await caught;
    await vm.resume();
    await vm.console.write(Buffer.from('help\r'));
    await vm.console.waitFor('poweroff');
    await vm.stop();
    process.exitCode = 5;
  },
  async 'using-throws'() {
    try {
      await using vm = await booted('a');
      await vm.console.write(Buffer.from('help\r'));
      throw new Error('inside the block');
    } catch (error) {
      process.exitCode = error instanceof Error && error.message === 'inside the block' ? 5 : 6;
    }
  },
};

await WAYS[how]();
