// A root that `buildImage` has made, of a container image, a program of the host and an init: Linux mounts it and runs it.

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { buildImage } from '../../../src/image/build.js';
import { MIB } from '../../../src/platform/units.js';
import { Vm } from '../../../src/vmm/vm.js';
import { describeKvm } from '../../support/kvm.js';
import { BOOT_LIMIT_MS, LINUX_CMDLINE, testArtefact } from '../../support/linux-guest.js';
import { dockerArchive, tar } from '../../support/tar.js';
import { ConsoleRecorder, testConfig } from '../../support/vms.js';

const BUSYBOX = '/usr/bin/busybox';

const INIT = `#!/bin/sh
${BUSYBOX} stat -c 'app %u:%g %a %Y %h' /srv/app
. /etc/tsvmm/image.sh
`;
const APP = `#!/bin/sh
echo "ran in $PWD with $GREETING: $*"
exec ${BUSYBOX} reboot -f
`;

describeKvm('a root made by buildImage', () => {
  let directory = '';
  beforeAll(async () => {
    directory = mkdtempSync(join(tmpdir(), 'tsvmm-root-'));
    const lower = tar([
      { name: 'dev/', type: '5', mode: 0o755 },
      { name: 'usr/sbin/', type: '5', mode: 0o755 },
      { name: 'sbin', type: '2', linkName: 'usr/sbin' },
      { name: 'bin/sh', type: '2', linkName: BUSYBOX },
      { name: 'srv/app', content: 'old' },
    ]);
    const upper = tar([
      { name: 'srv/app', content: APP, mode: 0o4755, uid: 1234, gid: 70_000, mtime: 86_400 },
      { name: 'srv/same', type: '1', linkName: 'srv/app' },
    ]);
    const config = { Entrypoint: ['/srv/app'], Cmd: ['a b', "c'd"], Env: ['GREETING=good day'], WorkingDir: '/srv' };
    writeFileSync(join(directory, 'image.tar'), dockerArchive([{ layers: [lower, upper], config, gzip: true }]));
    writeFileSync(join(directory, 'init'), INIT, { mode: 0o755 });
    await buildImage({
      sources: [
        { kind: 'docker-archive', path: join(directory, 'image.tar') },
        { kind: 'program', path: BUSYBOX },
      ],
      init: join(directory, 'init'),
      format: 'ext4',
      output: join(directory, 'root.ext4'),
    });
  });
  afterAll(() => {
    rmSync(directory, { recursive: true });
  });

  test(
    'is mounted, has owners, modes, times and links, and runs the command of the image',
    async () => {
      const payload = { kernel: testArtefact('kernel'), cmdline: `${LINUX_CMDLINE} root=/dev/vda rw` };
      const disks = [{ path: join(directory, 'root.ext4') }];
      const vm = await Vm.create(testConfig({ memory: { size: 64 * MIB }, payload, disks, no_reboot: true }));
      const console = new ConsoleRecorder(vm);
      try {
        await vm.start();
        expect(await vm.exited).toEqual({ reason: 'reset' });
      } finally {
        await vm.stop();
      }
      const lines = console.text.split(/\r?\n/);
      expect(lines).toContain('app 1234:70000 4755 86400 2');
      expect(lines).toContain("ran in /srv with good day: a b c'd");
    },
    BOOT_LIMIT_MS,
  );
});
