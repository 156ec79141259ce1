// The command line as a whole.

import { describe, expect, test } from '@jest/globals';
import { helpText, versionText } from '../../src/cli/help.js';
import { COMMAND_OPTIONS, parseCommandLine, SUBCOMMANDS } from '../../src/cli/options.js';
import { EXIT_CODES } from '../../src/cli/exit-codes.js';
import { parseVmOptions } from '../../src/config/parse-options.js';
import { DEFAULT_VM_CONFIG } from '../../src/config/vm-config.js';
import { VM_OPTION_GROUPS, VM_OPTIONS } from '../../src/config/vm-options.js';

function run(...args: string[]) {
  const command = parseCommandLine(args);
  if (command.action !== 'run') throw new Error(command.action);
  return { ...command, config: parseVmOptions(command.options) };
}

describe('the command line', () => {
  test('nothing at all runs the default machine', () => {
    expect(run()).toMatchObject({ action: 'run', config: DEFAULT_VM_CONFIG, verbosity: 0 });
    expect(run()).toMatchObject({ configFile: undefined, logFile: undefined });
  });

  test('values follow their option, after a blank or an equals sign', () => {
    expect(run('--vsock', 'cid=3,socket=/tmp/s').config.vsock).toEqual({ cid: 3, socket: '/tmp/s' });
    expect(run('--vsock=cid=3,socket=/tmp/s').config.vsock).toEqual({ cid: 3, socket: '/tmp/s' });
    expect(run('--log-file', '/tmp/l').logFile).toBe('/tmp/l');
  });

  test.each([
    [[], 0],
    [['-v'], 1],
    [['-vv'], 2],
    [['-v', '-vv'], 3],
  ])('%j means verbosity %i', (args, verbosity) => {
    expect(run(...args).verbosity).toBe(verbosity);
  });

  test('a command line for the kernel is text, whatever it looks like', () => {
    for (const text of ['0123', 'true', '"quoted" a=b', 'a,b', '-x', '']) {
      expect(run('--cmdline', text).config.payload.cmdline).toBe(text);
    }
    expect(run('--cmdline=--console=off').config.payload.cmdline).toBe('--console=off');
  });

  test('an option for one of several devices takes several values, and may be given again', () => {
    const taps = (...args: string[]) => run(...args).config.net?.map(({ tap }) => tap);
    expect(taps('--net', 'tap=a', 'tap=b', '--net', 'tap=c')).toEqual(['a', 'b', 'c']);
    expect(taps('--net=tap=a', '--net', 'tap=b', 'tap=c', '-v')).toEqual(['a', 'b', 'c']);
  });

  test('flags', () => {
    const { config } = run('--watchdog', '--no-reboot', '--pvpanic');
    expect(config).toEqual({ ...DEFAULT_VM_CONFIG, watchdog: true, no_reboot: true, pvpanic: true });
    expect(run().config).toEqual(DEFAULT_VM_CONFIG);
  });

  test.each([['--help'], ['-h'], ['--version'], ['-V']])('%s wins over whatever is wrong with the rest', (option) => {
    const action = option.toLowerCase().includes('h') ? 'help' : 'version';
    expect(parseCommandLine(['--vsock', 'cid=2', '--bogus', option]).action).toBe(action);
  });

  test.each([
    [['--vsokc', 'cid=3'], '--vsokc: no such option. Did you mean --vsock?'],
    [['--vsokc=cid=3'], '--vsokc: no such option. Did you mean --vsock?'],
    [['--fs', 'tag=x'], '--fs: an option of Cloud Hypervisor that is not supported by tsvmm. Directories of the host'],
    [['--disk'], '--disk: no value given. Write --disk path=PATH[,KEY=VALUE...]'],
    [['--disk', '--net', 'tap=a'], '--disk: no value given'],
    [['--disk=path=a', 'path=b'], '"path=b": belongs to no option'],
    [['--watchdog=off'], '--watchdog: takes no value. Write --watchdog, or leave it out.'],
    [['--watchdog', 'on'], '"on": belongs to no option'],
    [['--no-watchdog'], '--no-watchdog: no such option. Did you mean --watchdog?'],
    [['--firmware=/tmp/s'], '--firmware: an option of Cloud Hypervisor'],
    [['--no-help'], '--no-help: no such option. Did you mean --help?'],
    [['--no-vsock'], '--no-vsock: no such option'],
    [['-x'], '-x: no such option'],
    [['--kernel'], '--kernel: no value given. Write --kernel PATH'],
    [['--vsock', '--memory', 'size=1G'], '--vsock: no value given. Write --vsock cid=N,socket=PATH'],
    [['--log-file'], '--log-file: no value given. Write --log-file PATH'],
    [['--log-file', ''], '--log-file: the path is empty'],
    [['--log-file', 'a', '--log-file', 'b'], '--log-file: given 2 times'],
    [['--memory', 'size=1G', '--memory', 'size=2G'], '--memory: given 2 times'],
    [['--config', 'a', '--config', 'b'], '--config: given 2 times'],
    [['--config', ''], '--config: the path is empty'],
    [['convert-config'], 'convert-config: an argument is missing. Write tsvmm convert-config FILE.'],
    [['convert-config', 'a', 'b'], 'convert-config: "b" is too much. Write tsvmm convert-config FILE.'],
    [['config-schema', '--memory'], 'config-schema: "--memory" is too much. Write tsvmm config-schema.'],
    [['vmlinux'], '"vmlinux": belongs to no option'],
    [['--memory', 'size=1G', 'extra'], '"extra": belongs to no option'],
    [['--', '--memory'], '--memory: no such option'],
    [['--vsock', 'cid=2,socket=/tmp/s'], '--vsock cid: 2 is the host itself'],
  ])('%j is refused', (args, message) => {
    expect(() => run(...args)).toThrow(message);
  });

  test('a subcommand is the first argument', () => {
    expect(parseCommandLine(['convert-config', 'fc.json'])).toEqual({
      action: 'subcommand',
      name: 'convert-config',
      args: ['fc.json'],
    });
    expect(parseCommandLine(['config-schema'])).toMatchObject({ action: 'subcommand', args: [] });
    expect(parseCommandLine(['config-schema', '--help']).action).toBe('help');
    expect(run('--cmdline', 'config-schema').config.payload.cmdline).toBe('config-schema');
  });
});

describe('the help', () => {
  test('comes from the tables: every option, key and exit code is in it', async () => {
    const help = await helpText(100);
    for (const { name } of [...VM_OPTIONS, ...COMMAND_OPTIONS])
      expect(help).toContain(`${name.length > 1 ? '--' : '-'}${name}`);
    for (const { usage } of VM_OPTIONS) expect(help).toContain(usage);
    for (const { usage } of VM_OPTIONS.flatMap(({ keys }) => keys)) expect(help).toContain(usage);
    for (const name of Object.keys(SUBCOMMANDS)) expect(help).toContain(`\n  ${name}`);
    for (const [code, meaning] of EXIT_CODES) expect(help).toContain(`${code}  ${meaning}`);
  });

  test('fits the terminal that it is for', async () => {
    for (const columns of [80, 100, 200]) {
      const lines = (await helpText(columns)).split('\n');
      const wide = lines.filter((line) => line.length > columns);
      // Examples are there to be copied as they are, and words are not broken.
      expect(wide.filter((line) => !line.startsWith('  tsvmm ') && line.trim().includes(' '))).toEqual([]);
    }
  });

  test('has the options by subject', async () => {
    const help = await helpText();
    const titles = VM_OPTION_GROUPS.map(({ title }) => help.indexOf(`\n${title}:\n`));
    expect(titles.every((position) => position > 0)).toBe(true);
    expect(titles).toEqual([...titles].sort((a, b) => a - b));
  });

  test("the version is the package's", () => {
    expect(versionText()).toMatch(/^tsvmm \d+\.\d+\.\d+\n$/);
  });
});

describe('options for those who operate it', () => {
  test('their defaults, and what they are read as', () => {
    expect(run()).toMatchObject({ eventMonitor: undefined, graceMs: 0, noShutdown: false, logFormat: 'text' });
    expect(run('--event-monitor', 'fd=3').eventMonitor).toEqual({ fd: 3 });
    expect(run('--event-monitor', 'path="/tmp/a,b"').eventMonitor).toEqual({ path: '/tmp/a,b' });
    expect(run('--shutdown-timeout', '30').graceMs).toBe(30_000);
    expect(run('--log-format', 'json').logFormat).toBe('json');
    expect(run('--log-level', 'info').logLevels.base).toBe('info');
    expect(run('--no-shutdown', '--api-socket', 'path=/tmp/s')).toMatchObject({ noShutdown: true, hasVm: false });
  });

  test.each([
    [['--event-monitor', '/tmp/events'], /^--event-monitor: there is no "\/tmp\/events"\. Write path=FILE, or fd=N/],
    [['--event-monitor', 'path='], /path has no value/],
    [['--event-monitor', 'fd=-1'], /"-1" is not a number of a descriptor/],
    [['--event-monitor', 'path=a,fd=3'], /is not one target/],
    [['--event-monitor', 'path="a'], /quote is not closed/],
    [['--log-format', 'xml'], /^--log-format: there is no "xml"\. Use text or json\./],
    [['--shutdown-timeout', '1.5'], /"1\.5" is not a number of seconds\. Use a whole number from 0 to 86400/],
    [['--shutdown-timeout', '90000'], /is not a number of seconds/],
    [['--shutdown-timeout', ''], /is not a number of seconds/],
    [['--no-shutdown'], /^--no-shutdown: without the API, .* Add --api-socket/],
  ])('%j is refused', (args, message) => {
    expect(() => parseCommandLine(args)).toThrow(message);
  });
});
