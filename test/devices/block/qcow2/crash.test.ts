// A monitor that is killed, and a host that loses its power: the image stays whole, and what was flushed is there. Space
// may be lost.

import { spawn } from 'node:child_process';
import { copyFileSync, readFileSync, writeFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, expect, jest, test } from '@jest/globals';
import { HostFile } from '../../../../src/devices/block/host-file.js';
import type { IovecArray } from '../../../../src/platform/iovec.js';
import { libc } from '../../../../src/platform/libc.js';
import { NativeBuffer } from '../../../../src/platform/native-buffer.js';
import { forEachCase, fuzzRun, Random } from '../../../support/random.js';
import { CrashModel, nextOperation, perform } from './crash-model.js';
import { checkImage, describeQemu, qemuImg, qemuIo } from './qemu.js';
import { Workplace } from './workplace.js';

const SECTOR = 512;
const SIZE = '1M';

let workplace: Workplace;

beforeEach(() => {
  workplace = new Workplace();
});
afterEach(() => {
  jest.restoreAllMocks();
  workplace.remove();
});

const KINDS: [string, (path: string) => void][] = [
  ['small clusters', (path) => qemuImg('create', '-f', 'qcow2', '-o', 'cluster_size=512', path, SIZE)],
  ['large clusters', (path) => qemuImg('create', '-f', 'qcow2', path, SIZE)],
  ['version 2', (path) => qemuImg('create', '-f', 'qcow2', '-o', 'compat=0.10,cluster_size=4k', path, SIZE)],
  [
    'a backing file, a snapshot and compressed clusters',
    (path) => {
      const base = workplace.path('base.qcow2');
      qemuImg('create', '-f', 'qcow2', '-o', 'cluster_size=1k', base, SIZE);
      qemuIo(base, 'write -P 1 0 300k');
      qemuImg('create', '-f', 'qcow2', '-o', 'cluster_size=4k', '-F', 'qcow2', '-b', base, path);
      qemuIo(path, 'write -P 2 16k 64k', 'write -c -P 3 128k 4k', 'write -c -P 4 132k 4k');
      qemuImg('snapshot', '-c', 'before', path);
      qemuIo(path, 'write -P 5 512k 64k', 'write -c -P 6 200k 4k');
    },
  ],
];

describeQemu('a killed monitor', () => {
  const WRITER = fileURLToPath(new URL('crash-writer.js', import.meta.url));
  const KILLS = 5;

  /** Runs the writer until it has begun its operation number `operations`, then kills it. */
  async function killWriter(
    path: string,
    seed: number,
    operations: number,
  ): Promise<{ begun: number; flushed: number }> {
    const child = spawn(process.execPath, [WRITER, path, `${seed}`], { stdio: ['ignore', 'pipe', 'inherit'] });
    const closed = new Promise((resolve) => child.once('close', resolve));
    let begun = -1;
    let flushed = -1;
    for await (const line of createInterface({ input: child.stdout })) {
      if (line.startsWith('flushed ')) flushed = Number(line.slice('flushed '.length));
      else begun = Number(line);
      if (begun === operations) child.kill('SIGKILL');
    }
    await closed;
    expect(begun).toBeGreaterThanOrEqual(operations);
    return { begun, flushed };
  }

  test.each(KINDS)(
    'has lost nothing of what was flushed: %s',
    async (_, make) => {
      const path = workplace.path('image.qcow2');
      make(path);
      const { seed } = fuzzRun(1);
      process.stdout.write(`killed writers: TSVMM_FUZZ_SEED=${seed}\n`);
      for (let kill = 0; kill < KILLS; kill++) {
        const replayed = workplace.path('replayed.qcow2');
        copyFileSync(path, replayed);
        const { begun, flushed } = await killWriter(path, seed + kill, new Random(seed + kill).between(1, 200));
        // The same operations again, without the kill.
        const disk = workplace.openDisk(replayed);
        const model = new CrashModel(disk.readAll());
        const random = new Random(seed + kill);
        for (let index = 0; index <= begun; index++) {
          const operation = nextOperation(random, disk.size, index);
          model.start(operation);
          if (index < begun) perform(disk, operation);
          if (index === flushed) model.flushed(disk);
        }
        disk.close();
        expect(checkImage(path).corruptions).toBe(0);
        expect(model.firstWrongSector(workplace.openDisk(path, true).readAll())).toBeUndefined();
        workplace.closeFiles();
      }
    },
    60_000,
  );
});

type Writev = (this: HostFile, iovecs: IovecArray, offset: number) => number;
type Discard = (this: HostFile, offset: number, length: number) => number;

/** A method of HostFile as it is before it is mocked. */
function original(name: 'writev' | 'discard'): unknown {
  return Object.getOwnPropertyDescriptor(HostFile.prototype, name)?.value;
}

/** A disk that forgets: everything that is written to it may be lost, sector by sector, until it is flushed. */
class ForgetfulDisk {
  private durable: Uint8Array;
  private pending: { readonly offset: number; readonly bytes: Buffer }[] = [];
  /** Called whenever something has been written. */
  onWrite: () => void = () => undefined;

  constructor(contents: Uint8Array) {
    this.durable = contents;
    // eslint-disable-next-line @typescript-eslint/no-this-alias -- in the mocks, `this` is the file
    const forgetful = this;
    const writev = original('writev') as Writev;
    const discard = original('discard') as Discard;
    jest.spyOn(HostFile.prototype, 'writev').mockImplementation(function (this: HostFile, iovecs: IovecArray, offset) {
      forgetful.write(offset, contentsOf(iovecs));
      return writev.call(this, iovecs, offset);
    });
    jest.spyOn(HostFile.prototype, 'discard').mockImplementation(function (this: HostFile, offset, length) {
      forgetful.write(offset, Buffer.alloc(length));
      return discard.call(this, offset, length);
    });
    // The real one takes long, and the power of this host stays on.
    jest.spyOn(HostFile.prototype, 'flush').mockImplementation(() => {
      for (const { offset, bytes } of this.pending) this.durable = overwrite(this.durable, offset, bytes);
      this.pending = [];
      return 0;
    });
  }

  /** What is there after the power was lost right now. */
  afterPowerCut(random: Random): Uint8Array {
    let contents = this.durable;
    const kept = random.below(5);
    for (const { offset, bytes } of this.pending) {
      for (let at = 0; at < bytes.length;) {
        const end = Math.min(bytes.length, at + SECTOR - ((offset + at) % SECTOR));
        if (random.below(4) < kept) contents = overwrite(contents, offset + at, bytes.subarray(at, end));
        at = end;
      }
    }
    return contents;
  }

  private write(offset: number, bytes: Buffer): void {
    this.pending.push({ offset, bytes });
    this.onWrite();
  }
}

function contentsOf(iovecs: IovecArray): Buffer {
  const memory = new NativeBuffer(iovecs.totalBytes);
  let done = 0;
  for (let entry = 0; entry < iovecs.count; entry++) {
    libc.memcpy(memory.address + done, iovecs.addressAt(entry), iovecs.lengthAt(entry));
    done += iovecs.lengthAt(entry);
  }
  return Buffer.from(memory.bytes);
}

function overwrite(contents: Uint8Array, offset: number, bytes: Uint8Array): Uint8Array {
  const longer = new Uint8Array(Math.max(contents.length, offset + bytes.length));
  longer.set(contents);
  longer.set(bytes, offset);
  return longer;
}

interface PowerCut {
  readonly image: Uint8Array;
  readonly model: CrashModel;
}

describeQemu('a host that loses its power', () => {
  const OPERATIONS = 60;
  const CUTS = 6;

  test.each(KINDS)('has lost nothing of what was flushed: %s', (_, make) => {
    const path = workplace.path('image.qcow2');
    make(path);
    const original = readFileSync(path);
    forEachCase('power cuts', fuzzRun(4), (random) => {
      writeFileSync(path, original);
      const disk = workplace.openDisk(path);
      const model = new CrashModel(disk.readAll());
      const forgetful = new ForgetfulDisk(original);
      const cuts: PowerCut[] = [];
      let writes = 0;
      // Evenly spread over all writes, of which nobody knows beforehand how many there are.
      forgetful.onWrite = () => {
        const place = writes++ < CUTS ? cuts.length : random.below(writes);
        if (place < CUTS) cuts[place] = { image: forgetful.afterPowerCut(random), model: model.copy() };
      };
      for (let index = 0; index < OPERATIONS; index++) {
        const operation = nextOperation(random, disk.size, index);
        model.start(operation);
        perform(disk, operation);
        if (operation.type === 'flush') model.flushed(disk);
      }
      disk.close();
      jest.restoreAllMocks();
      for (const cut of cuts) {
        writeFileSync(path, cut.image);
        expect(checkImage(path).corruptions).toBe(0);
        expect(cut.model.firstWrongSector(workplace.openDisk(path, true).readAll())).toBeUndefined();
      }
      workplace.closeFiles();
    });
  });
});
