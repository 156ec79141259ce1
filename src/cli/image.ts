// `tsvmm image`: reads its options, builds the image, says what was built. A signal stops the work, and nothing is left of it.

import { GUEST_AGENT } from '../agent/binary.js';
import { ConfigError } from '../config/config-error.js';
import { byteSize, integer, type ValueKind, ValueError } from '../config/values.js';
import type { ImageFormat, ImageOptions, ImageReport, ImageSource } from '../image/build.js';
import { formatBytes } from '../platform/units.js';
import type { SubcommandOutput } from './config.js';
import { type EndingSignal, SIGNAL_EXITS } from './exit-codes.js';
import { IMAGE_OPTIONS } from './image-options.js';
import { type GivenOption, onlyValue, readSubcommandOptions } from './subcommand-options.js';

const SOURCE_KINDS = ['folder', 'program', 'docker-archive', 'oci-layout'] as const;

const MAX_ID = 0xffff_fffe;
const MAX_TIME = 0x7fff_ffff;

/** Builds the image that `args` ask for. Throws ConfigError and ImageError. */
export async function runImage(args: readonly string[]): Promise<SubcommandOutput> {
  const options = readImageOptions(args);
  const { buildImage } = await import('../image/build.js');
  const stop = new AbortController();
  let stoppedBy: EndingSignal | undefined;
  const listeners = (Object.keys(SIGNAL_EXITS) as EndingSignal[]).map((signal) => {
    const listener = (): void => {
      stoppedBy ??= signal;
      stop.abort();
    };
    process.on(signal, listener);
    return [signal, listener] as const;
  });
  try {
    const report = await buildImage({ ...options, signal: stop.signal });
    return { stdout: reportText(options.output, report), notes: [...report.notes, ...moduleNotes(report)] };
  } catch (error) {
    if (stoppedBy === undefined) throw error;
    return {
      stdout: '',
      notes: [`stopped; there is no ${options.output} of this run`],
      status: SIGNAL_EXITS[stoppedBy],
    };
  } finally {
    for (const [signal, listener] of listeners) process.off(signal, listener);
  }
}

function reportText(output: string, { entries, contentBytes, imageBytes }: ImageReport): string {
  return `${output}: ${formatBytes(imageBytes)}, with ${entries} entries and ${formatBytes(contentBytes)} of content\n`;
}

function moduleNotes({ modules }: ImageReport): string[] {
  if (modules === undefined || modules.missing.length === 0) return [];
  const { version, missing } = modules;
  return [`the kernel ${version} has these neither as modules nor in itself: ${missing.join(', ')}`];
}

/** What the arguments ask for; throws ConfigError. */
export function readImageOptions(args: readonly string[]): ImageOptions {
  const given = readSubcommandOptions(args, IMAGE_OPTIONS);
  const output = onlyValue(given, 'output');
  if (output === undefined) {
    throw mistake(
      'output',
      'MISSING_VALUE',
      'not given',
      'Write --output FILE: .cpio.gz for an initramfs, .ext4 for a disk.',
    );
  }
  const format = formatOf(onlyValue(given, 'format'), output);
  const sources = sourcesOf(given);
  const init = initOf(given);
  const modules = modulesOf(given);
  if (sources.length === 0 && init === undefined && modules === undefined) {
    const kinds = SOURCE_KINDS.map((kind) => `--${kind}`).join(', ');
    const mend = `Give at least one of ${kinds}, --init, --agent-init and --modules.`;
    throw mistake('image', 'MISSING_VALUE', 'there is nothing to put into it', mend);
  }
  const size = numberOf(given, 'size', byteSize, 1, Number.MAX_SAFE_INTEGER);
  if (size !== undefined && format !== 'ext4') {
    throw mistake('size', 'CONFLICT', 'an initramfs is as large as its content', 'Leave it out, or build ext4.');
  }
  if (size !== undefined && size % 4096 !== 0) {
    throw mistake('size', 'OUT_OF_RANGE', `${size} is not a multiple of 4096`, 'Give it in whole MiB, such as 512M.');
  }
  return {
    sources,
    format,
    output,
    size,
    compress: !output.endsWith('.cpio'),
    init,
    agent: given.some(({ name }) => name === 'agent') ? GUEST_AGENT : undefined,
    modules,
    mtime: numberOf(given, 'mtime', integer, 0, MAX_TIME),
    owner: ownerOf(onlyValue(given, 'owner')),
    devices: devicesOf(onlyValue(given, 'devices')),
    maxBytes: numberOf(given, 'max-size', byteSize, 1, Number.MAX_SAFE_INTEGER),
  };
}

function initOf(given: readonly GivenOption[]): string | undefined {
  const init = onlyValue(given, 'init');
  if (!given.some(({ name }) => name === 'agent-init')) return init;
  if (init === undefined) return GUEST_AGENT;
  const mend = 'Leave out one of them; an init of your own starts the agent of --agent.';
  throw mistake('agent-init', 'CONFLICT', `--init makes ${init} the init`, mend);
}

function modulesOf(given: readonly GivenOption[]): ImageOptions['modules'] {
  const path = onlyValue(given, 'modules');
  const names = given.filter(({ name }) => name === 'module').map(({ value }) => value);
  if (path !== undefined) return { path, names };
  if (names.length === 0) return undefined;
  throw mistake('module', 'MISSING_KEY', 'it is not said of which kernel', 'Add --modules DIR: /lib/modules/VERSION.');
}

function sourcesOf(given: readonly GivenOption[]): ImageSource[] {
  const image = onlyValue(given, 'image');
  const sources = given.flatMap(({ name, value }): ImageSource[] => {
    switch (name) {
      case 'folder':
      case 'program':
        return [{ kind: name, path: value }];
      case 'docker-archive':
      case 'oci-layout':
        return [{ kind: name, path: value, image }];
      default:
        return [];
    }
  });
  const containers = sources.filter(({ kind }) => kind === 'docker-archive' || kind === 'oci-layout');
  if (image !== undefined && containers.length !== 1) {
    const mend = 'Give it with one --docker-archive or --oci-layout.';
    throw mistake('image', 'CONFLICT', `there are ${containers.length} places to look for ${image}`, mend);
  }
  return sources;
}

function formatOf(text: string | undefined, output: string): ImageFormat {
  if (text === 'initramfs' || text === 'ext4') return text;
  if (text !== undefined) {
    throw mistake('format', 'WRONG_TYPE', `${JSON.stringify(text)} is no format`, 'Use initramfs or ext4.');
  }
  if (/\.(cpio|gz)$/.test(output)) return 'initramfs';
  if (/\.(ext4|img)$/.test(output)) return 'ext4';
  throw mistake('format', 'MISSING_VALUE', `the name ${output} does not say it`, 'Use --format initramfs or ext4.');
}

function devicesOf(text: string | undefined): 'refuse' | 'keep' | undefined {
  if (text === undefined || text === 'refuse' || text === 'keep') return text;
  throw mistake('devices', 'WRONG_TYPE', `${JSON.stringify(text)} is neither`, 'Use refuse or keep.');
}

function ownerOf(text: string | undefined): { uid: number; gid: number } | undefined {
  if (text === undefined) return undefined;
  const [, uid, gid] = (/^(\d{1,10}):(\d{1,10})$/.exec(text) ?? []).map(Number);
  if (uid > MAX_ID || gid > MAX_ID || !Number.isInteger(uid)) {
    throw mistake('owner', 'WRONG_TYPE', `${JSON.stringify(text)} is no owner`, 'Give numbers, such as 0:0 for root.');
  }
  return { uid, gid };
}

function numberOf(
  given: readonly GivenOption[],
  name: string,
  kind: ValueKind<number>,
  least: number,
  most: number,
): number | undefined {
  const text = onlyValue(given, name);
  if (text === undefined) return undefined;
  let value: number;
  try {
    value = kind.parse(text);
  } catch (error) {
    if (!(error instanceof ValueError)) throw error;
    throw new ConfigError({ option: `--${name}`, label: `--${name}`, value: text }, error.complaint);
  }
  if (value >= least && value <= most) return value;
  throw mistake(name, 'OUT_OF_RANGE', `${text} is out of range`, `Use ${least} to ${most}.`);
}

function mistake(name: string, code: ConfigError['code'], problem: string, mend: string): ConfigError {
  const label = name === 'image' && code !== 'CONFLICT' ? 'tsvmm image' : `--${name}`;
  return new ConfigError({ option: label, label }, { code, problem, mend });
}
