#!/usr/bin/env node
// The `tsvmm` command. Loads no more than the case at hand needs: the time until the guest's first instruction counts,
// so help (yargs), the log (winston) and the schema library (zod) stay out of a plain start.

import { inspect } from 'node:util';
import { EXIT_INTERNAL, EXIT_OK, EXIT_RUN_FAILED, exitCodeFor, isExpected, type EndingSignal } from './exit-codes.js';
import type { VmConfig } from '../config/vm-config.js';
import type { EventMonitor } from './event-monitor.js';
import type { EventTarget } from './event-target.js';
import { createLog, type Log, type LogFunction } from './logging.js';
import { runSubcommand, vmConfigOf } from './config.js';
import { parseCommandLine } from './options.js';
import type { SnapshotOverrides } from '../vmm/snapshot/overrides.js';
import type { Vm, VmEvent } from '../vmm/vm.js';
import { chosenPorts, type RunnableVm } from './attend.js';
import type { GuestCommandName } from './guest-help.js';
import type { CreateProgramVm, GuestRun } from './guest-program.js';
import type { Host } from './host.js';
import { resumesAtOnce } from './restore.js';
import { runVm } from './run.js';

/** How long the process may take to end by itself after the VM has; something that still holds it is a bug. */
const LINGER_LIMIT_MS = 2000;

/** Set while a VM exists: what stops it when this thread fails. */
let stopVm: (() => Promise<void>) | undefined;
const failure = { seen: false };
process.on('uncaughtException', (error) => {
  // Without this Node would end the main thread and wait for the workers, which wait for their guest: for ever, and
  // deaf to signals.
  reportError(error, true);
  if (failure.seen || stopVm === undefined) die(undefined);
  failure.seen = true;
  stopVm?.().catch(() => {
    die(undefined);
  });
});

const status = await main(process.argv.slice(2));
process.exitCode = failure.seen ? EXIT_INTERNAL : status;
// No process.exit: whatever would keep the process from ending is to be noticed, not hidden. Yet it does end.
setTimeout(() => {
  say(`still held by ${process.getActiveResourcesInfo().join(', ')}, which is a bug; ending the process`);
  die(undefined);
}, LINGER_LIMIT_MS).unref();

async function main(args: readonly string[]): Promise<number> {
  let verbose = false;
  try {
    const command = parseCommandLine(args);
    if (command.action === 'ctl') {
      const { runCtl } = await import('./ctl/run.js');
      return await runCtl(command.args, { stdin: process.stdin, stdout: process.stdout, say }, process.env);
    }
    if (command.action === 'subcommand') {
      const { stdout, notes, status = EXIT_OK } = await runSubcommand(command.name, command.args);
      for (const note of notes) say(note);
      print(process.stdout, stdout);
      return status;
    }
    if (command.action === 'test') return await bootTests(command.args);
    if (command.action === 'program') return await guestProgram(command.args);
    if (command.action === 'exec' || command.action === 'cp') return await guestCommand(command.action, command.args);
    if (command.action !== 'run') {
      const { helpText, versionText } = await import('./help.js');
      print(process.stdout, command.action === 'help' ? await helpText(process.stdout.columns) : versionText());
      return 0;
    }
    const { verbosity, logFile, logLevels, logFormat, apiSocket, hasVm, restore, graceMs, noShutdown } = command;
    const resume = restore !== undefined && resumesAtOnce(restore, apiSocket !== undefined);
    verbose = verbosity > 0;
    const config = hasVm || apiSocket === undefined ? await vmConfigOf(command) : undefined;
    const log = createLog({ verbosity, levels: logLevels, file: logFile, format: logFormat });
    const reopen = reopenBySignal(log);
    let events: EventMonitor | undefined;
    try {
      const watch = await openEvents(command.eventMonitor, log);
      events = watch?.monitor;
      // What -vv shows is put together only for it.
      const logLevel = log.reaches('debug') ? 'debug' : 'info';
      const options = { log: log.write, logLevel, ...(watch && { onEvent: watch.onEvent }) } as const;
      if (apiSocket !== undefined) {
        const { serveApi } = await import('./serve.js');
        return await serveApi({
          socket: apiSocket,
          config,
          restore: restore === undefined ? undefined : { directory: restore.directory, resume },
          createVm: (vm) => createVm(vm, options),
          restoreVm: (directory, overrides) => restoreVm(directory, { ...options, overrides }),
          log: log.write,
          host: host(),
          graceMs,
          noShutdown,
        });
      }
      if (config === undefined) throw new Error('there is nothing to run');
      const make = restore === undefined ? createVm : makeFrom(restore.directory);
      return await runVm(config, (vm) => make(vm, options), log.write, host(), graceMs);
    } finally {
      events?.write('vmm', 'shutdown');
      await events?.close();
      process.off('SIGUSR1', reopen);
      log.close();
    }
  } catch (error) {
    reportError(error, verbose);
    return exitCodeFor(error);
  }
}

/** Failures have a status of their own here: all others are the program's. */
async function guestProgram(args: readonly string[]): Promise<number> {
  let verbose = false;
  try {
    const { parseGuestProgram, prepareGuestRun, runGuestProgram } = await import('./guest-program.js');
    const command = parseGuestProgram(args);
    if (command === 'version') return await main(['--version']);
    if (command === 'help') return await printGuestHelp('run');
    verbose = command.log.verbosity > 0;
    const log = createLog(command.log);
    const options = { log: log.write, logLevel: log.reaches('debug') ? 'debug' : 'info' } as const;
    const create: CreateProgramVm = async (config, restoreFrom) => {
      if (restoreFrom !== undefined) await prestart(config);
      const vm =
        restoreFrom === undefined
          ? await createVm(config, options)
          : await restoreVm(restoreFrom, { ...options, overrides: config });
      for (const line of chosenPorts(config, vm.publishedPorts)) say(line);
      if (restoreFrom === undefined) return vm;
      const { agent, exited, console } = vm;
      return { agent, exited, console, start: () => vm.resume(), stop: () => vm.stop() };
    };
    const prepare: GuestRun['prepare'] = (folder, signal) => prepareGuestRun(command, create, folder, signal, say);
    try {
      return await runGuestProgram({ ...command.run, prepare }, process, host());
    } finally {
      log.close();
    }
  } catch (error) {
    reportError(error, verbose);
    return EXIT_RUN_FAILED;
  }
}

/** Programs and copies in a guest that runs already. */
async function guestCommand(name: 'exec' | 'cp', args: readonly string[]): Promise<number> {
  const dashes = args.indexOf('--');
  const ours = dashes < 0 ? args : args.slice(0, dashes);
  if (ours.includes('--help') || ours.includes('-h')) return await printGuestHelp(name);
  try {
    const { parseCp, parseExec, runCp, runExec } = await import('./guest-commands.js');
    if (name === 'exec') return await runExec(parseExec(args, process.env), process, host());
    return await runCp(parseCp(args, process.env), process.stderr, host());
  } catch (error) {
    reportError(error, false);
    return name === 'exec' ? EXIT_RUN_FAILED : exitCodeFor(error);
  }
}

async function printGuestHelp(name: GuestCommandName): Promise<number> {
  const { guestHelp } = await import('./guest-help.js');
  print(process.stdout, guestHelp(name));
  return EXIT_OK;
}

async function bootTests(args: readonly string[]): Promise<number> {
  const { parseTestCommand, testHelp } = await import('./test-options.js');
  const command = parseTestCommand(args);
  if (command === 'help') {
    print(process.stdout, testHelp());
    return 0;
  }
  const { runBootTests } = await import('./boot-tests.js');
  return runBootTests(command, {
    host: host(),
    stderr: {
      isTTY: process.stderr.isTTY,
      get columns() {
        return process.stderr.columns;
      },
      write: (text) => {
        print(process.stderr, text);
      },
    },
    print: (text) => {
      print(process.stdout, text);
    },
    onStop: (stop) => {
      stopVm = stop;
    },
  });
}

interface MakeOptions {
  readonly log: LogFunction;
  readonly logLevel: 'debug' | 'info';
  readonly onEvent?: (event: VmEvent) => void;
}

/**
 * Lets SIGUSR1 open the log file again, for those who rotate it; returns the listener. Without a file too: else the signal
 * would start Node's debugger.
 */
function reopenBySignal(log: Log): () => void {
  const reopen = (): void => {
    const problem = log.reopen();
    if (problem !== undefined) say(problem);
  };
  process.on('SIGUSR1', reopen);
  return reopen;
}

/** Throws ConfigError. */
async function openEvents(target: EventTarget | undefined, log: Log) {
  if (target === undefined) return undefined;
  const { EventMonitor } = await import('./event-monitor.js');
  const { tellEvent } = await import('./vm-events.js');
  const monitor = EventMonitor.open(target, (message) => {
    log.write('warn', 'vmm', message);
  });
  monitor.write('vmm', 'starting');
  const onEvent = (event: VmEvent): void => {
    const { source, event: name, properties } = tellEvent(event);
    monitor.write(source, name, properties);
  };
  return { monitor, onEvent };
}

async function createVm(config: VmConfig, options: MakeOptions): Promise<Vm> {
  await prestart(config);
  const { Vm } = await import('../vmm/vm.js');
  const vm = await Vm.create(config, options);
  stopVm = () => vm.stop();
  return vm;
}

async function restoreVm(
  directory: string,
  options: MakeOptions & { readonly overrides: SnapshotOverrides },
): Promise<Vm> {
  const { Vm } = await import('../vmm/vm.js');
  const vm = await Vm.restore(directory, options);
  stopVm = () => vm.stop();
  return vm;
}

/** Makes the VM that was saved in `directory`, which goes on when it is started. */
function makeFrom(directory: string): (config: VmConfig, options: MakeOptions) => Promise<RunnableVm> {
  return async (config, options) => {
    await prestart(config);
    const vm = await restoreVm(directory, { ...options, overrides: config });
    const { builtInGuest, exited, console, consoles, publishedPorts } = vm;
    return {
      builtInGuest,
      exited,
      console,
      consoles,
      publishedPorts,
      start: () => vm.resume(),
      stop: (how) => vm.stop(how),
    };
  };
}

/** Both ends of the VM load at once: its threads theirs, this one its own. */
async function prestart(config: VmConfig): Promise<void> {
  const { prestartWorkers } = await import('../vmm/worker-pool.js');
  const { planIoThreads } = await import('../vmm/device-plan.js');
  prestartWorkers({ vcpus: config.cpus.boot_vcpus, io: planIoThreads(config) });
}

function host(): Host {
  return {
    // Made when first asked for: a VM without a terminal does not touch stdin.
    get stdin() {
      return process.stdin;
    },
    say,
    onSignal: (signal, listener) => process.on(signal, listener),
    offSignal: (signal, listener) => process.off(signal, listener),
    die,
  };
}

function say(text: string): void {
  print(process.stderr, `tsvmm: ${text}\n`);
}

/** A reader that has gone (`tsvmm --help | head -1`) is no failure, and there is nobody left to tell. */
function print(stream: NodeJS.WriteStream, text: string): void {
  if (stream.listenerCount('error') === 0) stream.on('error', () => undefined);
  stream.write(text);
}

function reportError(error: unknown, verbose: boolean): void {
  if (isExpected(error)) {
    say(error.message);
    if (verbose && error.cause !== undefined) say(`caused by ${inspect(error.cause)}`);
  } else if (verbose) say(`internal failure: ${inspect(error)}`);
  else {
    // An error that stands for several says nothing by itself.
    const parts = error instanceof AggregateError ? [error, ...(error.errors as unknown[])] : [error];
    const messages = parts.map((part) => (part instanceof Error ? part.message : String(part)));
    say(`internal failure: ${messages.join('; ')} (-v shows where)`);
  }
}

/**
 * Ends the process without waiting for anything. process.exit would join the worker threads, which may be what does not
 * end; the default action of a signal does not.
 */
function die(signal: EndingSignal | undefined): void {
  if (process.stdin.isTTY) process.stdin.setRawMode(false);
  if (signal === undefined) {
    process.kill(process.pid, 'SIGKILL');
    return;
  }
  process.removeAllListeners(signal);
  process.kill(process.pid, signal);
}
