// The Linux guest of the tests, which test/guest/build.sh builds once and caches.

import { execFileSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';

export interface LinuxArtefacts {
  readonly kernel: string;
  readonly initramfs: string;
  readonly disk: string;
}

/** Paths of what it consists of; builds it when it is not there. */
export function buildLinux(): LinuxArtefacts {
  const script = fileURLToPath(new URL('../../test/guest/build.sh', import.meta.url));
  const output = execFileSync(script, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] });
  const path = (name: string): string => {
    const match = new RegExp(`^${name}=(.*)$`, 'm').exec(output);
    if (match === null) throw new Error(`${script} did not say where ${name} is`);
    return match[1];
  };
  return { kernel: path('kernel'), initramfs: path('initramfs'), disk: path('disk') };
}
