// From option texts to a configuration; every refusal with its message.

import { execFileSync } from 'node:child_process';
import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { ConfigErrorCode } from '../../src/config/config-error.js';
import { quote } from '../../src/config/option-grammar.js';
import { MAX_SOCKET_PATH_BYTES } from '../../src/config/rules/vsock.js';
import { DEFAULT_VM_CONFIG } from '../../src/config/vm-config.js';
import { errorOf, expectRefusal, parse } from './support.js';

let folder = '';
let kernel = '';

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'tsvmm-config-'));
  kernel = join(folder, 'vmlinux');
  writeFileSync(kernel, 'not looked into here');
});

afterAll(() => {
  rmSync(folder, { recursive: true });
});

/** Root may read and write everything, so permissions are judged in a process that has given root up. */
function messagesAsNobody(tries: readonly Readonly<Record<string, readonly string[]>>[]): unknown {
  const parser = new URL('../../src/config/parse-options.js', import.meta.url).href;
  const script = `
    import { parseVmOptions } from ${JSON.stringify(parser)};
    if (process.getuid() === 0) process.setuid(65534);
    const messages = ${JSON.stringify(tries)}.map((options) => {
      try { parseVmOptions(new Map(Object.entries(options))); return 'accepted'; } catch (error) { return error.message; }
    });
    console.log(JSON.stringify(messages));`;
  return JSON.parse(execFileSync(process.execPath, ['--input-type=module', '-e', script], { encoding: 'utf8' }));
}

describe('what is accepted', () => {
  test('no options make the default machine', () => {
    expect(parse({})).toEqual(DEFAULT_VM_CONFIG);
  });

  test('a machine with everything', () => {
    const socket = join(folder, 'ch.vsock');
    const file = join(folder, 'serial.log');
    const config = parse({
      kernel,
      initramfs: kernel,
      cmdline: 'console=ttyS0 a="b,c" [x',
      cpus: 'boot=1,max=1',
      memory: 'size=1G',
      serial: `file=${file}`,
      console: 'off',
      vsock: `cid=3,socket=${socket}`,
    });
    expect(config).toEqual({
      cpus: { boot_vcpus: 1, max_vcpus: 1 },
      memory: { size: 1024 ** 3 },
      // Plain options take the shell's word: quotes and brackets in a command line are text.
      payload: { kernel, initramfs: kernel, cmdline: 'console=ttyS0 a="b,c" [x' },
      serial: { mode: 'File', file },
      console: { mode: 'Off' },
      vsock: { cid: 3, socket },
    });
  });

  test.each([
    ['tty', 'Tty'],
    ['null', 'Null'],
    ['off', 'Off'],
  ])('--serial %s', (text, mode) => {
    expect(parse({ serial: text }).serial).toEqual({ mode });
  });

  test('a socket path with a comma, in quotes', () => {
    const socket = join(folder, 'a,b');
    expect(parse({ vsock: `socket=${quote(socket)},cid=4294967294` }).vsock).toEqual({ cid: 4294967294, socket });
  });

  test('a peer, and several in brackets', () => {
    const peers = (text: string): unknown => parse({ vsock: `cid=3,socket=${folder}/s,peer=${text}` }).vsock?.peers;
    expect(peers('4:/tmp/b:c')).toEqual([{ cid: 4, socket: '/tmp/b:c' }]);
    expect(peers('[4:/tmp/b,"5:/tmp/c,d"]')).toEqual([
      { cid: 4, socket: '/tmp/b' },
      { cid: 5, socket: '/tmp/c,d' },
    ]);
  });

  test('a socket path that just fits with its longest suffix', () => {
    const socket = `${folder}/`.padEnd(MAX_SOCKET_PATH_BYTES, 's');
    expect(`${socket}_4294967295\0`).toHaveLength(108);
    expect(parse({ vsock: `cid=3,socket=${socket}` }).vsock?.socket).toBe(socket);
    expectRefusal(
      { vsock: `cid=3,socket=${socket}s` },
      'TOO_LONG',
      `Use a path of at most ${MAX_SOCKET_PATH_BYTES} bytes`,
    );
  });

  test('the result is frozen, since it is not checked again', () => {
    const config = parse({});
    expect(Object.isFrozen(config) && Object.isFrozen(config.memory)).toBe(true);
    expect(Object.isFrozen(DEFAULT_VM_CONFIG.memory)).toBe(false);
  });
});

describe('what is refused', () => {
  test.each<[cid: string, code: ConfigErrorCode, message: string]>([
    ['0', 'RESERVED', '--vsock cid: 0 is reserved'],
    ['1', 'RESERVED', '--vsock cid: 1 is the loopback'],
    ['2', 'RESERVED', '--vsock cid: 2 is the host itself'],
    ['4294967295', 'RESERVED', 'VMADDR_CID_ANY'],
    ['4294967296', 'OUT_OF_RANGE', '4294967296 is too large'],
    ['99999999999999999999', 'OUT_OF_RANGE', 'is too large'],
    ['-1', 'OUT_OF_RANGE', '-1 is negative'],
    ['three', 'WRONG_TYPE', '"three" is not a whole number'],
    ['3.5', 'WRONG_TYPE', '"3.5" is not a whole number'],
    ['', 'MISSING_VALUE', '--vsock cid: no value given'],
  ])('cid=%s', (cid, code, message) => {
    expectRefusal({ vsock: `cid=${cid},socket=/tmp/s` }, code, message);
  });

  test('an error carries its parts as fields', () => {
    expect(errorOf({ vsock: 'cid=2,socket=/tmp/s' })).toMatchObject({
      code: 'RESERVED',
      option: '--vsock',
      key: 'cid',
      value: 2,
      problem: '2 is the host itself (VMADDR_CID_HOST)',
      mend: 'Use 3 to 4294967294.',
    });
  });

  test('the limits of a vsock device', () => {
    const limits = 'max_connections=100,buf_alloc=4M,poll_us=50,connect_timeout_ms=500';
    expect(parse({ vsock: `cid=3,socket=${folder}/s,${limits}` }).vsock).toMatchObject({
      max_connections: 100,
      buf_alloc: 4_194_304,
      poll_us: 50,
      connect_timeout_ms: 500,
    });
  });

  test.each([
    ['max_connections=0', '--vsock max_connections: 0 connections are too few. Use 1 to 1048576.'],
    ['max_connections=1048577', '--vsock max_connections: 1048577 connections are too many'],
    ['buf_alloc=4095', '--vsock buf_alloc: 4095 bytes are too few. Use 4096 to 67108864.'],
    ['buf_alloc=65M', '--vsock buf_alloc: 68157440 bytes are too many'],
    ['poll_us=-1', '--vsock poll_us: -1 microseconds are too few'],
    ['poll_us=10001', '--vsock poll_us: 10001 microseconds are too many'],
    ['connect_timeout_ms=0', '--vsock connect_timeout_ms: 0 milliseconds are too few'],
  ])('a vsock limit out of its range is refused: %s', (limit, message) => {
    expectRefusal({ vsock: `cid=3,socket=${folder}/s,${limit}` }, 'OUT_OF_RANGE', message);
  });

  test('a vsock device without cid or socket', () => {
    expectRefusal({ vsock: 'socket=/tmp/s' }, 'MISSING_KEY', '--vsock cid: missing. Write --vsock cid=N,socket=PATH.');
    expectRefusal({ vsock: 'cid=3' }, 'MISSING_KEY', '--vsock socket: missing');
    expectRefusal({ vsock: '' }, 'MISSING_KEY', '--vsock cid: missing');
  });

  test('peers that cannot be', () => {
    const refuse = (peer: string, code: ConfigErrorCode, text: string): void => {
      expectRefusal({ vsock: `cid=3,socket=/tmp/a,peer=${peer}` }, code, text);
    };
    refuse('/tmp/b', 'WRONG_TYPE', '--vsock peer: "/tmp/b" is not a context id and a path with a colon between them');
    refuse('4:', 'WRONG_TYPE', 'Write it like 4:/tmp/b.vsock');
    refuse('3:/tmp/b', 'CONFLICT', '--vsock peer: 3 is the context id of the guest itself');
    refuse('2:/tmp/b', 'RESERVED', '--vsock peer: 2 is the host itself');
    refuse('[4:/tmp/b,4:/tmp/c]', 'DUPLICATE', '--vsock peer: there are two peers with context id 4');
    refuse(`4:/tmp/${'b'.repeat(103)}`, 'TOO_LONG', 'the path of a peer has 108 bytes');
    refuse('99999999999:/tmp/b', 'OUT_OF_RANGE', 'is too large');
  });

  test('two vsock devices', () => {
    expectRefusal({ vsock: ['cid=3,socket=/tmp/a', 'cid=4,socket=/tmp/b'] }, 'DUPLICATE', '--vsock: given 2 times');
  });

  test('a key twice', () => {
    expectRefusal({ vsock: 'cid=3,cid=4,socket=/tmp/a' }, 'DUPLICATE', '--vsock cid: given twice');
  });

  test('an unknown key, with the nearest', () => {
    expectRefusal({ vsock: 'cid=3,sokcet=/tmp/a' }, 'UNKNOWN_KEY', 'Did you mean socket? There are cid, socket, peer,');
    expectRefusal({ memory: '128M' }, 'UNKNOWN_KEY', 'Did you mean size=128M?');
    expectRefusal({ cpus: '4' }, 'UNKNOWN_KEY', 'Did you mean boot=4?');
    expectRefusal({ disk: 'root.img' }, 'UNKNOWN_KEY', 'Did you mean path=root.img?');
    expectRefusal({ memory: 'constructor=1' }, 'UNKNOWN_KEY', 'There are size, mergeable,');
  });

  test("a key of Cloud Hypervisor's that does not exist here", () => {
    expectRefusal({ vsock: 'cid=3,socket=/tmp/a,iommu=on' }, 'NOT_SUPPORTED', '--vsock iommu: not supported by tsvmm');
    expectRefusal({ memory: 'size=1G,hotplug_size=1G' }, 'NOT_SUPPORTED', '--memory hotplug_size: not supported');
    expectRefusal({ cpus: 'boot=1,nested=on' }, 'NOT_SUPPORTED', '--cpus nested: not supported by tsvmm. There is no');
    expectRefusal({ serial: 'tcp=1.2.3.4:5' }, 'NOT_SUPPORTED', 'use socket=PATH');
    expectRefusal({ console: 'tty,iommu=on' }, 'NOT_SUPPORTED', '--console iommu: not supported by tsvmm');
  });

  test('text that is not in the grammar', () => {
    expectRefusal({ vsock: 'cid=3,socket="/tmp/a' }, 'SYNTAX', '--vsock: a double quote is not closed');
    expectRefusal({ vsock: 'cid=3,,socket=/tmp/a' }, 'SYNTAX', 'Take out the extra comma');
    expectRefusal({ serial: 'tty=1' }, 'SYNTAX', '--serial tty: takes no value');
  });

  test('a socket in a directory that is not there, or is none', () => {
    expectRefusal({ vsock: 'cid=3,socket=/nowhere/s' }, 'NOT_FOUND', 'the directory "/nowhere" does not exist');
    expectRefusal({ vsock: `cid=3,socket=${kernel}/s` }, 'UNUSABLE_FILE', 'is not a directory');
    expectRefusal({ vsock: 'cid=3,socket=' }, 'MISSING_VALUE', '--vsock socket: no value given');
  });

  test('a kernel or initramfs that is no readable file', () => {
    expectRefusal({ kernel: join(folder, 'none') }, 'NOT_FOUND', '/none" does not exist');
    expectRefusal({ kernel: folder }, 'UNUSABLE_FILE', 'is a directory');
    expectRefusal({ kernel: '' }, 'MISSING_VALUE', '--kernel: the path is empty');
    expectRefusal({ kernel, initramfs: join(folder, 'none') }, 'NOT_FOUND', '--initramfs: ');
    expectRefusal({ kernel: 'a\0b' }, 'UNUSABLE_FILE', 'NUL byte');
  });

  test('a file or directory without permission', () => {
    const secret = join(folder, 'secret');
    mkdirSync(secret, { mode: 0o555 });
    const closed = join(folder, 'closed');
    writeFileSync(closed, '', { mode: 0 });
    chmodSync(folder, 0o755);
    expect(messagesAsNobody([{ vsock: [`cid=3,socket=${secret}/s`] }, { kernel: [closed] }])).toEqual([
      expect.stringContaining('--vsock socket: there is no permission to create files in'),
      expect.stringContaining('--kernel: there is no permission to read'),
    ]);
  });

  test('an initramfs without a kernel', () => {
    expectRefusal({ initramfs: kernel }, 'CONFLICT', '--initramfs: an initramfs needs a kernel');
  });

  test('a command line with a NUL byte', () => {
    expectRefusal({ cmdline: 'a\0b' }, 'WRONG_TYPE', '--cmdline: the command line holds a NUL byte');
  });

  test('a serial port that goes to several places, or to none', () => {
    expectRefusal({ serial: 'tty,off' }, 'CONFLICT', 'chooses more than one. Choose one of tty, null, off, pty,');
    expectRefusal({ serial: '' }, 'MISSING_VALUE', 'nothing is chosen');
    expectRefusal({ serial: 'file' }, 'MISSING_VALUE', '--serial file: no value given. Write file=PATH.');
    expectRefusal({ serial: 'file=/nowhere/f' }, 'NOT_FOUND', '--serial file: the directory "/nowhere" does not exist');
    expectRefusal({ serial: 'ttyy' }, 'UNKNOWN_KEY', 'Did you mean tty?');
  });
});
