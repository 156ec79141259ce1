// Configuration files: both languages, what is wrong with them and where, and options over them.

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { stringify } from 'yaml';
import { vmConfigOf } from '../../src/cli/config.js';
import { ConfigError, type ConfigErrorCode } from '../../src/config/config-error.js';
import { vmConfigJsonSchema } from '../../src/config/json-schema.js';
import { fieldPaths } from '../../src/config/schema.js';
import { validateVmConfig } from '../../src/config/validate.js';
import { DEFAULT_VM_CONFIG, type VmConfig } from '../../src/config/vm-config.js';
import { readDocument } from '../docs/tables.js';
import type { Options } from './support.js';

const MIB = 1024 ** 2;

let folder = '';
let image = '';
let other = '';

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'tsvmm-file-'));
  image = join(folder, 'a.img');
  other = join(folder, 'b.img');
  for (const path of [image, other]) writeFileSync(path, 'not looked into here');
});

afterAll(() => {
  rmSync(folder, { recursive: true });
});

function write(name: string, content: unknown): string {
  const path = join(folder, name);
  writeFileSync(path, typeof content === 'string' ? content : JSON.stringify(content));
  return path;
}

function read(configFile: string, options: Options = {}): Promise<VmConfig> {
  const texts = Object.entries(options).map(([name, text]) => [name, [text].flat()] as const);
  return vmConfigOf({ configFile, options: new Map(texts) });
}

async function expectRefusal(
  name: string,
  content: unknown,
  code: ConfigErrorCode,
  message: string,
  options?: Options,
): Promise<void> {
  const path = write(name, content);
  const error = await read(path, options).then(
    () => new Error(`accepted: ${JSON.stringify(content)}`),
    (reason: unknown) => reason,
  );
  if (!(error instanceof ConfigError)) throw error;
  expect(error.message).toContain(message.replaceAll('FILE', path));
  expect(error.code).toBe(code);
}

describe('a configuration file', () => {
  test('is JSON or YAML, by its name or by what is in it', async () => {
    const config = { memory: { size: 64 * MIB }, disks: [{ path: image, readonly: true }] };
    const expected = { ...DEFAULT_VM_CONFIG, ...config };
    const yaml = `# a machine\nmemory:\n  size: 67108864\ndisks:\n  - path: ${image}\n    readonly: true\n`;
    expect(await read(write('vm.json', config))).toEqual(expected);
    expect(await read(write('vm.yaml', yaml))).toEqual(expected);
    expect(await read(write('vm.YML', yaml))).toEqual(expected);
    expect(await read(write('vm', yaml))).toEqual(expected);
    expect(await read(write('vm.conf', `\n ${JSON.stringify(config)}`))).toEqual(expected);
  });

  test('any configuration is the same in both languages', async () => {
    const config = fc.record({
      memory: fc.record({ size: fc.integer({ min: 1, max: 1000 }).map((pages) => pages * 4096) }),
      payload: fc.record({ cmdline: fc.string().filter((text) => !text.includes('\0')) }),
      console: fc.constantFrom({ mode: 'Null' }, { mode: 'File', file: '/dev/null' }),
      watchdog: fc.boolean(),
    });
    await fc.assert(
      fc.asyncProperty(config, async (input) => {
        const [json, yaml] = [await read(write('p.json', input)), await read(write('p.yaml', stringify(input)))];
        expect(yaml).toEqual(json);
        expect(json).toEqual(validateVmConfig(input));
      }),
      { numRuns: 50 },
    );
  });

  test.each<[name: string, content: unknown, code: ConfigErrorCode, message: string]>([
    [
      'vm.json',
      { disks: [{ path: '/x' }, { size: 5 }] },
      'MISSING_KEY',
      'FILE: disks[1].path: missing. Give a string.',
    ],
    ['vm.json', { memroy: {} }, 'UNKNOWN_KEY', 'FILE: memroy: no such key. Did you mean memory?'],
    ['vm.json', { disks: [{ path: '/nowhere' }] }, 'NOT_FOUND', 'FILE: disks[0].path: "/nowhere" does not exist.'],
    ['vm.yaml', 'memory: {size: 512M}', 'WRONG_TYPE', 'FILE: memory.size: "512M" is not a number'],
    ['vm.json', [], 'WRONG_TYPE', 'FILE: config: [] is not an object'],
    ['vm.yaml', 'just words', 'WRONG_TYPE', 'FILE: config: "just words" is not an object'],
    ['vm.json', '', 'MISSING_VALUE', '--config: the file is empty'],
    ['vm.json', '{"memory": {"size": 1,}}', 'SYNTAX', 'FILE:1:23: '],
    ['vm.json', '{\n  "memory": oops\n}', 'SYNTAX', 'FILE:2:13: '],
    ['vm.yaml', 'memory:\n  size: 1\n  size: 2\n', 'SYNTAX', 'FILE:3:3: Map keys must be unique. Correct the YAML.'],
    ['vm.yaml', 'memory: [1\nx: 2\n', 'SYNTAX', 'FILE:'],
    ['vm.yaml', 'a: &a [x]\nb: *c\n', 'SYNTAX', 'FILE:'],
    ['vm.json', '{"__proto__": {"a": 1}}', 'UNKNOWN_KEY', 'FILE: __proto__: no such key'],
  ])('%s with %j is refused', async (name, content, code, message) => {
    await expectRefusal(name, content, code, message);
  });

  test('that cannot be read is a mistake of the option', async () => {
    await expect(read(join(folder, 'none.json'))).rejects.toThrow('none.json" does not exist. Check the spelling.');
    await expect(read(folder)).rejects.toThrow(`--config: ${JSON.stringify(folder)} cannot be read (EISDIR)`);
  });

  test('any text at all is read or refused with a ConfigError', async () => {
    const text = fc.oneof(fc.string(), fc.json(), fc.constantFrom('&a', '*a', '!!map', '? :', '- -', '%TAG', '---'));
    await fc.assert(
      fc.asyncProperty(fc.array(text), fc.constantFrom('x.json', 'x.yaml'), async (parts, name) => {
        await read(write(name, parts.join('\n'))).catch((error: unknown) => {
          expect(error).toBeInstanceOf(ConfigError);
        });
      }),
    );
  });
});

describe('options over a configuration file', () => {
  test('replace the fields that they name', async () => {
    const path = write('vm.json', { cpus: { boot_vcpus: 2 }, memory: { size: 64 * MIB, thp: false }, watchdog: true });
    const config = await read(path, { memory: 'size=128M', 'no-reboot': '' });
    expect(config).toMatchObject({ cpus: { boot_vcpus: 2, max_vcpus: 2 }, watchdog: true, no_reboot: true });
    expect(config.memory).toEqual({ size: 128 * MIB, thp: false });
  });

  test('a console is replaced as a whole', async () => {
    const path = write('vm.json', { serial: { mode: 'File', file: '/dev/null' } });
    expect((await read(path, { serial: 'null' })).serial).toEqual({ mode: 'Null' });
  });

  test('the console takes the terminal from a serial port that neither file nor options ask for', async () => {
    expect((await read(write('vm.json', {}), { console: 'tty' })).serial).toEqual({ mode: 'Null' });
    const message = 'FILE: serial.mode: the serial port and the console cannot both have the terminal';
    await expectRefusal('vm.json', { serial: { mode: 'Tty' } }, 'CONFLICT', message, { console: 'tty' });
  });

  test('devices are added, and one of a name that is there is changed', async () => {
    const path = write('vm.json', { disks: [{ path: image, id: 'root', serial: 'S', readonly: true }] });
    expect((await read(path, { disk: `path=${other}` })).disks).toEqual([
      { path: image, id: 'root', serial: 'S', readonly: true },
      { path: other },
    ]);
    expect((await read(path, { disk: `path=${other},id=root` })).disks).toEqual([
      { path: other, id: 'root', serial: 'S', readonly: true },
    ]);
  });

  test('a message names the option or the file, whichever is to be changed', async () => {
    const disks = [{ path: image, id: 'root', num_queues: 99 }, { path: other }];
    const fromFile = 'FILE: disks[0].num_queues: 99 queues are too many';
    await expectRefusal('vm.json', { disks }, 'OUT_OF_RANGE', fromFile, { memory: 'size=1G' });
    const changed = `path=${image},id=root,num_queues=77`;
    const fromOption = '--disk num_queues: 77 queues are too many';
    await expectRefusal('vm.json', { disks }, 'OUT_OF_RANGE', fromOption, { disk: changed });
    const good = [{ path: image }];
    const second = '--disk queue_size (second): 3 is not a power of two';
    const two = [`path=${other}`, `path=${other},queue_size=3`];
    await expectRefusal('vm.json', { disks: good }, 'OUT_OF_RANGE', second, { disk: two });
    await expectRefusal('vm.json', { memory: { size: 5 } }, 'OUT_OF_RANGE', 'FILE: memory.size: 5 bytes');
    await expectRefusal('vm.json', { memory: { thp: true } }, 'OUT_OF_RANGE', '--memory size: 5 bytes', {
      memory: 'size=5',
    });
  });

  test('what the file has wrong may be mended by an option', async () => {
    const path = write('vm.json', { payload: { kernel: '/nowhere' } });
    expect((await read(path, { kernel: image })).payload).toEqual({ kernel: image });
  });
});

/** What Cloud Hypervisor prints of a machine that it runs (vm.info). */
const CLOUD_HYPERVISOR_CONFIG = {
  cpus: {
    boot_vcpus: 2,
    max_vcpus: 2,
    topology: null,
    kvm_hyperv: false,
    max_phys_bits: 46,
    affinity: null,
    features: { amx: false },
    nested: true,
    core_scheduling: 'Vm',
  },
  memory: {
    size: 512 * MIB,
    mergeable: false,
    hotplug_method: 'Acpi',
    hotplug_size: null,
    hotplugged_size: null,
    shared: true,
    hugepages: false,
    hugepage_size: null,
    prefault: false,
    zones: null,
    thp: true,
  },
  payload: { firmware: null, kernel: null, cmdline: null, initramfs: null },
  rate_limit_groups: null,
  disks: [
    {
      path: '',
      readonly: false,
      direct: false,
      iommu: false,
      num_queues: 1,
      queue_size: 128,
      vhost_user: false,
      vhost_socket: null,
      rate_limit_group: null,
      rate_limiter_config: null,
      id: '_disk0',
      disable_io_uring: false,
      disable_aio: false,
      pci_segment: 0,
      serial: null,
      queue_affinity: null,
      backing_files: false,
      sparse: true,
      lock_granularity: 'ByteRange',
    },
  ],
  net: [
    { tap: 'vmtap0', ip: null, mac: '2e:89:a8:e4:92:00', mtu: null, vhost_mode: 'Client', fds: null, iommu: false },
  ],
  rng: { src: '/dev/urandom', iommu: false },
  balloon: null,
  fs: null,
  pmem: null,
  serial: { file: null, mode: 'Null', iommu: false, socket: null },
  console: { file: null, mode: 'Tty', iommu: false, socket: null },
  debug_console: { file: null, mode: 'Off', iobase: 233 },
  devices: [],
  user_devices: null,
  vdpa: null,
  vsock: { cid: 3, socket: '/tmp/ch.sock', iommu: false, id: '_vsock', pci_segment: 0 },
  pvpanic: false,
  iommu: false,
  sgx_epc: null,
  numa: null,
  watchdog: false,
  pci_segments: null,
  platform: null,
  tpm: null,
  preserved_fds: null,
  landlock_enable: false,
  landlock_rules: null,
};

describe("Cloud Hypervisor's own configuration", () => {
  test('is taken as it is, where it asks for nothing that is not there', async () => {
    const [disk] = CLOUD_HYPERVISOR_CONFIG.disks;
    const path = write('ch.json', { ...CLOUD_HYPERVISOR_CONFIG, disks: [{ ...disk, path: image }] });
    expect(await read(path)).toEqual({
      cpus: { boot_vcpus: 2, max_vcpus: 2, features: { amx: false } },
      memory: { size: 512 * MIB, mergeable: false, shared: true, hugepages: false, prefault: false, thp: true },
      payload: {},
      disks: [
        {
          path: image,
          readonly: false,
          direct: false,
          num_queues: 1,
          queue_size: 128,
          id: '_disk0',
          backing_files: false,
        },
      ],
      net: [{ tap: 'vmtap0', mac: '2e:89:a8:e4:92:00' }],
      rng: { src: '/dev/urandom' },
      serial: { mode: 'Null' },
      console: { mode: 'Tty' },
      debug_console: { mode: 'Off', iobase: 233 },
      vsock: { cid: 3, socket: '/tmp/ch.sock' },
      pvpanic: false,
      watchdog: false,
    });
  });

  test.each<[config: unknown, message: string]>([
    [{ disks: [{ path: '/x', iommu: true }] }, 'disks[0].iommu: true is not supported by tsvmm. Devices are on'],
    [{ cpus: { kvm_hyperv: true } }, 'cpus.kvm_hyperv: true is not supported by tsvmm'],
    [{ memory: { zones: [{ id: 'a' }] } }, 'memory.zones: [{"id":"a"}] is not supported by tsvmm. The guest has one'],
    [{ fs: [{ tag: 'x' }] }, 'fs: [{"tag":"x"}] is not supported by tsvmm. Directories of the host are not shared'],
    [{ payload: { firmware: '/fw' } }, 'payload.firmware: "/fw" is not supported by tsvmm'],
    [{ net: [{}, { fds: [3] }] }, 'net[1].fds: [3] is not supported by tsvmm'],
    [{ vsock: { cid: 3, id: 'mine' } }, 'vsock.id: "mine" is not supported by tsvmm. There is one such device'],
  ])('%j is refused with the reason', async (config, message) => {
    await expectRefusal('ch.json', config, 'NOT_SUPPORTED', `FILE: ${message}`);
  });
});

describe('the published JSON Schema', () => {
  const text = readDocument('schema/vm-config.schema.json');

  test('is that of the source: write it anew with `npm start -- config-schema > schema/vm-config.schema.json`', () => {
    expect(JSON.parse(text)).toEqual(JSON.parse(JSON.stringify(vmConfigJsonSchema())));
  });

  test('says what every field is', () => {
    const undescribed = fieldPaths().filter((path) => {
      const field = at(JSON.parse(text) as Schema, path.split('.'));
      return field?.description === undefined;
    });
    // What belongs to a key as a whole is described there.
    expect(undescribed.filter((path) => !/^(cpus\.(topology|affinity|features)|vsock\.peers)/.test(path))).toEqual([]);
  });

  interface Schema {
    readonly description?: string;
    readonly properties?: Readonly<Record<string, Schema>>;
    readonly items?: Schema;
  }

  function at(schema: Schema | undefined, path: readonly string[]): Schema | undefined {
    return path.reduce<Schema | undefined>((inner, key) => {
      const field = inner?.properties?.[key.replace('[]', '')];
      return key.endsWith('[]') ? field?.items : field;
    }, schema);
  }
});

test('the schema file ends in a newline, as the command prints it', () => {
  const text = readFileSync(new URL('../../../schema/vm-config.schema.json', import.meta.url), 'utf8');
  expect(text).toBe(`${JSON.stringify(vmConfigJsonSchema(), null, 2)}\n`);
});
