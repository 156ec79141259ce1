// `tsvmm doctor`: what the host can do, a line for each check.

import type { Check, Diagnosis, HostProbes } from '../vmm/doctor/checks.js';
import { EXIT_KVM, EXIT_OK } from './exit-codes.js';
import type { CommandOption } from './options.js';

export const DOCTOR_OPTIONS: readonly CommandOption[] = [
  { name: 'json', kind: 'flag', usage: '', help: 'Print the findings as JSON' },
];

export interface DoctorOutput {
  readonly stdout: string;
  /** 0 when a VM can run here, else EXIT_KVM. */
  readonly status: number;
}

/** Examines this host, or, in a test, `host`. */
export async function runDoctor(json: boolean, host?: HostProbes): Promise<DoctorOutput> {
  const { diagnose } = await import('../vmm/doctor/checks.js');
  const { hostProbes } = await import('../vmm/doctor/host.js');
  const diagnosis = await diagnose(host ?? hostProbes());
  return {
    stdout: json ? `${JSON.stringify(diagnosis, null, 2)}\n` : diagnosisText(diagnosis),
    status: diagnosis.usable ? EXIT_OK : EXIT_KVM,
  };
}

function diagnosisText({ usable, checks }: Diagnosis): string {
  const width = Math.max(...checks.map(({ name }) => name.length));
  const verdict = usable ? 'A VM can run here.' : 'No VM can run here before the problems are mended.';
  return `${[...checks.map((check) => line(check, width)), verdict].join('\n')}\n`;
}

function line({ name, status, detail, mend }: Check, width: number): string {
  return `${status.padEnd('problem'.length)}  ${name.padEnd(width)}  ${detail}${mend === undefined ? '' : `; ${mend}`}`;
}
