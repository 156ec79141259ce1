// What a spec leads to: each of its tests on each machine of its matrix, with a checked configuration. Main thread.

import { basename, resolve } from 'node:path';
import { MistakeList } from '../config/config-mistakes.js';
import { markValid } from '../config/valid-config.js';
import { checkRules } from '../config/rules/index.js';
import type { FieldNames } from '../config/rules/rule.js';
import { saysAcpiOff } from '../config/rules/payload.js';
import { completeVmConfig } from '../config/validate.js';
import type { DiskConfig, VmConfig } from '../config/vm-config.js';
import { guestUsesAcpi, isBuiltInGuest } from '../vmm/guest.js';
import { specError, type Spec, type Step } from './spec.js';

const STEP_TIMEOUT_MS = 60_000;
const TEST_TIMEOUT_MS = 300_000;
/** Of the vsock device that is there when a step needs it. */
const VSOCK_CID = 3;

/** A step that will be carried out, and what it is called in messages. */
export interface PlannedStep {
  readonly step: Step;
  readonly timeoutMs: number;
}

/** One boot. */
export interface PlannedTest {
  readonly suite: string;
  readonly file: string;
  /** Unique in its suite: the test's name and its place in the matrix. */
  readonly name: string;
  readonly config: VmConfig;
  /** Disks that are written to are replaced by an overlay each. */
  readonly overlaid: readonly number[];
  readonly steps: readonly PlannedStep[];
  readonly timeoutMs: number;
  readonly allow: readonly (string | RegExp)[];
}

type Fields = Readonly<Record<string, unknown>>;

/** One machine of the matrix. */
interface Variant {
  /** `kernel=6.1 cpus=2`; empty without a matrix. */
  readonly label: string;
  readonly payload: Readonly<Record<'kernel' | 'initramfs' | 'cmdline', string | undefined>>;
  readonly cpus: number | undefined;
  /** Where parts of the configuration are from, for messages. */
  readonly places: ReadonlyMap<string, string>;
}

/** Every test on every machine. Throws ConfigError about all that cannot be. */
export function planTests(spec: Spec): PlannedTest[] {
  const tests = spec.tests ?? [{ name: 'boot', steps: spec.steps ?? [] }];
  const { step: stepTimeout = STEP_TIMEOUT_MS, test: testTimeout = TEST_TIMEOUT_MS } = spec.timeouts ?? {};
  const mistakes = new MistakeList();
  const planned = variantsOf(spec).flatMap((variant) => {
    const config = mistakes.try(() => configOf(spec, variant));
    if (config === undefined) return [];
    return tests.map((test, index): PlannedTest => {
      const where = spec.tests === undefined ? 'steps' : `tests[${index}].steps`;
      mistakes.try(() => {
        refuseImpossible(spec, config, test.steps, where);
      });
      return {
        suite: spec.name,
        file: spec.file,
        name: variant.label === '' ? test.name : `${test.name} ${variant.label}`,
        config,
        overlaid: (config.disks ?? []).flatMap(({ readonly }, disk) => (readonly === true ? [] : [disk])),
        steps: test.steps.map((step) => ({ step, timeoutMs: step.timeout ?? stepTimeout })),
        timeoutMs: test.timeout ?? testTimeout,
        allow: spec.allow ?? [],
      };
    });
  });
  mistakes.throwIfAny();
  return planned;
}

function variantsOf(spec: Spec): Variant[] {
  const { kernels = [], cmdlines = [], cpus = [] } = spec.matrix ?? {};
  const kernelNames = namesOf(spec, 'kernels', kernels, ({ kernel }) => basename(kernel));
  const cmdlineNames = namesOf(spec, 'cmdlines', cmdlines, ({ cmdline }) => JSON.stringify(cmdline));
  refuseTwice(spec, 'cpus', cpus.map(String));
  return orNone(kernels).flatMap((kernel, k) =>
    orNone(cmdlines).flatMap((cmdline, c) =>
      orNone(cpus).map((count, n): Variant => {
        const places = new Map<string, string>();
        if (kernel !== undefined) {
          places.set('payload.kernel', `matrix.kernels[${k}].kernel`);
          places.set('payload.initramfs', `matrix.kernels[${k}].initramfs`);
        }
        if (cmdline !== undefined) places.set('payload.cmdline', `matrix.cmdlines[${c}]`);
        if (count !== undefined) places.set('cpus.boot_vcpus', `matrix.cpus[${n}]`);
        const label = [
          kernel === undefined ? [] : [`kernel=${kernelNames[k]}`],
          cmdline === undefined ? [] : [`cmdline=${cmdlineNames[c]}`],
          count === undefined ? [] : [`cpus=${count}`],
        ];
        const payload = { kernel: kernel?.kernel, initramfs: kernel?.initramfs, cmdline: cmdline?.cmdline };
        return { label: label.flat().join(' '), payload, cpus: count, places };
      }),
    ),
  );
}

function orNone<T>(values: readonly T[]): readonly (T | undefined)[] {
  return values.length === 0 ? [undefined] : values;
}

function namesOf<T extends { readonly name?: string | undefined }>(
  spec: Spec,
  dimension: string,
  entries: readonly T[],
  byItself: (entry: T) => string,
): string[] {
  const names = entries.map((entry) => entry.name ?? byItself(entry));
  refuseTwice(spec, dimension, names);
  return names;
}

function refuseTwice(spec: Spec, dimension: string, names: readonly string[]): void {
  const twice = names.findIndex((name, index) => names.indexOf(name) !== index);
  if (twice < 0) return;
  throw specError(spec, `matrix.${dimension}[${twice}]`, names[twice], {
    code: 'DUPLICATE',
    problem: `there are two with the name ${names[twice]}`,
    mend: dimension === 'cpus' ? 'Leave one out.' : 'Give each a name of its own: { name: ... }.',
  });
}

/** The checked configuration of one machine. Throws ConfigError. */
function configOf(spec: Spec, variant: Variant): VmConfig {
  const names: FieldNames = (field) =>
    spec.fields(variant.places.get(field) ?? (field === 'config' ? 'machine' : `machine.${field}`));
  const machine = spec.machine ?? {};
  const cpus = variant.cpus === undefined ? {} : { cpus: { ...section(machine, 'cpus'), boot_vcpus: variant.cpus } };
  const given = Object.entries(variant.payload).filter(([, value]) => value !== undefined);
  const payload = { ...section(machine, 'payload'), ...Object.fromEntries(given) };
  const needsVsock = [spec.steps ?? [], ...(spec.tests ?? []).map(({ steps }) => steps)]
    .flat()
    .some(({ vsock, exec }) => vsock !== undefined || exec !== undefined);
  const input = {
    serial: { mode: 'Null' },
    no_reboot: true,
    ...(needsVsock ? { vsock: { cid: VSOCK_CID } } : {}),
    ...machine,
    ...cpus,
    payload,
  };
  const complete = withPathsFrom(spec.folder, completeVmConfig(input, names));
  refuseForeignHostParts(spec, complete);
  // A panic is told at once through the device, where a guest can find it.
  const acpi = guestUsesAcpi(complete) && !saysAcpiOff(complete.payload.cmdline ?? '');
  const config = { ...complete, ...(acpi && complete.pvpanic === undefined ? { pvpanic: true } : {}) };
  // Overlays are what is written to, so it is enough that the images can be read.
  const { disks } = config;
  const asRead = disks === undefined ? {} : { disks: disks.map((disk): DiskConfig => ({ ...disk, readonly: true })) };
  checkRules({ ...config, ...asRead }, names);
  return markValid(config);
}

function section(machine: Fields, name: string): Fields {
  const value = machine[name];
  return typeof value === 'object' && value !== null ? (value as Fields) : {};
}

/** `config` with its paths relative to `folder`. */
function withPathsFrom(folder: string, config: VmConfig): VmConfig {
  const { payload, disks, pmem } = config;
  const at = (path: string): string => resolve(folder, path);
  const { kernel, initramfs } = payload;
  return {
    ...config,
    payload: {
      ...payload,
      ...(kernel === undefined ? {} : { kernel: at(kernel) }),
      ...(initramfs === undefined ? {} : { initramfs: at(initramfs) }),
    },
    ...(disks === undefined ? {} : { disks: disks.map((disk): DiskConfig => ({ ...disk, path: at(disk.path) })) }),
    ...(pmem === undefined ? {} : { pmem: pmem.map((device) => ({ ...device, file: at(device.file) })) }),
  };
}

/** What tests that run side by side would fight over, and consoles that nobody would read. */
function refuseForeignHostParts(spec: Spec, config: VmConfig): void {
  const { serial, console, debug_console: debug, vsock, pmem = [] } = config;
  const refuse = (field: string, value: unknown, problem: string, mend: string): never => {
    throw specError(spec, `machine.${field}`, value, { code: 'CONFLICT', problem, mend });
  };
  for (const [name, mode] of [
    ['serial', serial.mode],
    ['console', console.mode],
    ['debug_console', debug?.mode ?? 'Off'],
  ] as const) {
    if (mode === 'Null' || mode === 'Off') continue;
    refuse(`${name}.mode`, mode, `${JSON.stringify(mode)}: a test reads its consoles itself`, 'Write Null or Off.');
  }
  if (vsock?.socket !== undefined) {
    const problem = 'a test reaches the guest without a socket, and two tests cannot share one';
    refuse('vsock.socket', vsock.socket, problem, 'Leave it out.');
  }
  pmem.forEach(({ file, discard_writes }, index) => {
    if (discard_writes === true) return;
    const problem = 'tests that run side by side cannot all write to one file';
    refuse(`pmem[${index}].file`, file, problem, 'Add discard_writes: true.');
  });
}

function refuseImpossible(spec: Spec, config: VmConfig, steps: readonly Step[], where: string): void {
  const typed = steps.findIndex(({ expect, send }) => expect !== undefined || send !== undefined);
  if (typed >= 0 && config.serial.mode === 'Off' && config.console.mode === 'Off') {
    throw specError(spec, `${where}[${typed}]`, steps[typed], {
      code: 'CONFLICT',
      problem: 'the machine has no console: serial and console are both Off',
      mend: 'Write Null for one of them.',
    });
  }
  const exec = steps.findIndex((step) => step.exec !== undefined);
  if (exec >= 0 && isBuiltInGuest(config)) {
    throw specError(spec, `${where}[${exec}].exec`, steps[exec].exec, {
      code: 'CONFLICT',
      problem: 'programs are run by the agent in a Linux guest, and this one is the guest built into tsvmm',
      mend: 'Name a kernel.',
    });
  }
  const button = steps.findIndex(({ powerButton }) => powerButton !== undefined);
  if (button < 0 || guestUsesAcpi(config)) return;
  throw specError(spec, `${where}[${button}].powerButton`, true, {
    code: 'CONFLICT',
    problem: 'this guest does not use ACPI (it is the built-in one, or told acpi=off), so it has no power button',
    mend: 'Let the guest shut down by itself.',
  });
}
