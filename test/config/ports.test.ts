// Published ports and host services: option texts and configuration files in, configuration out, and every refusal.

import { describe, expect, test } from '@jest/globals';
import type { ConfigErrorCode } from '../../src/config/config-error.js';
import { parseVmOptions } from '../../src/config/parse-options.js';
import { completeVmConfig, validateVmConfig } from '../../src/config/validate.js';
import { byPath } from '../../src/config/rules/rule.js';
import type { PublishConfig } from '../../src/config/vm-config.js';
import { parseStreamAddress } from '../../src/platform/net-address.js';
import { expectRefusal, expectRefusedConfig, parse, type Options } from './support.js';

/** A file that can be read stands for a kernel, which ports of TCP want. */
const KERNEL = { kernel: '/proc/version' };

describe('--publish', () => {
  test.each<[string, PublishConfig]>([
    ['8080:80', { host_port: 8080, guest_port: 80 }],
    ['0:80', { host_port: 0, guest_port: 80 }],
    ['127.0.0.1:8080:80', { host: '127.0.0.1', host_port: 8080, guest_port: 80 }],
    ['0.0.0.0:8080:80', { host: '0.0.0.0', host_port: 8080, guest_port: 80 }],
    ['[::1]:8080:80', { host: '::1', host_port: 8080, guest_port: 80 }],
    ['8080:vsock:7', { host_port: 8080, vsock_port: 7 }],
    ['[::1]:0:vsock:4294967294', { host: '::1', host_port: 0, vsock_port: 4_294_967_294 }],
  ])('%s', (text, published) => {
    const { publish, vsock } = parse({ ...KERNEL, publish: text });
    expect(publish).toEqual([published]);
    expect(vsock).toEqual({ cid: 3 });
  });

  test('is given several times; a vsock device that is there is left as it is', () => {
    const { publish, vsock } = parse({ ...KERNEL, publish: ['1:1', '2:2'], vsock: 'cid=9,socket=/tmp/x' });
    expect(publish?.map(({ host_port }) => host_port)).toEqual([1, 2]);
    expect(vsock).toEqual({ cid: 9, socket: '/tmp/x' });
  });

  test.each<[string, ConfigErrorCode, string]>([
    ['8080', 'WRONG_TYPE', '--publish: "8080" is not a port of the host and one of the guest'],
    ['', 'WRONG_TYPE', 'Write it like 8080:80'],
    ['8080:80:tcp', 'WRONG_TYPE', '--publish: "8080:80:tcp" is not'],
    ['8080:vsock:', 'WRONG_TYPE', '--publish: "8080:vsock:" is not'],
    ['::1:8080:80', 'WRONG_TYPE', '--publish: "::1:8080:80" is not'],
    [
      'localhost:8080:80',
      'WRONG_TYPE',
      '--publish: "localhost" is not an address of the host. Write one like 127.0.0.1',
    ],
    [':8080:80', 'WRONG_TYPE', '--publish: "" is not an address of the host'],
    ['[127.0.0.1:8080:80', 'WRONG_TYPE', 'is not a port of the host'],
    ['1.2.3:8080:80', 'WRONG_TYPE', '--publish: "1.2.3" is not an address of the host'],
    ['65536:80', 'OUT_OF_RANGE', '--publish: there is no port 65536. Use 0 to 65535'],
    ['80:65536', 'OUT_OF_RANGE', '--publish: there is no port 65536. Use 1 to 65535'],
    ['80:0', 'OUT_OF_RANGE', '--publish: there is no port 0. Use 1 to 65535'],
    ['80:vsock:4294967295', 'OUT_OF_RANGE', '--publish: there is no port 4294967295'],
  ])('%j is refused', (text, code, message) => {
    expectRefusal({ ...KERNEL, publish: text }, code, message);
  });

  test.each<[Options, ConfigErrorCode, string]>([
    [{ publish: ['80:1', '80:2'] }, 'DUPLICATE', '--publish (second): 127.0.0.1:80 leads to another place already'],
    [{ publish: ['[::1]:80:1', '[::1]:80:1'] }, 'DUPLICATE', '--publish (second): [::1]:80 leads to another place'],
    [
      { publish: ['1:vsock:1', '80:80'], kernel: [] },
      'CONFLICT',
      '--publish (second): the built-in guest has no agent',
    ],
  ])('%j is refused', (options, code, message) => {
    expectRefusal({ ...KERNEL, ...options }, code, message);
  });

  test('any number of free ports is no repetition, and other addresses are other ports', () => {
    const texts = ['0:80', '0:80', '80:80', '[::1]:80:80', '127.0.0.2:80:80'];
    expect(parse({ ...KERNEL, publish: texts }).publish).toHaveLength(5);
  });

  test('none takes back what was said before', () => {
    const config = parse({ publish: 'none' });
    expect(config.publish).toEqual([]);
    expect(config.vsock).toBeUndefined();
    expect(parse({ ...KERNEL, publish: ['1:1', 'none', '2:2'] }).publish).toEqual([{ host_port: 2, guest_port: 2 }]);
  });
});

describe('--host-service', () => {
  test('a name, a place, and perhaps a port', () => {
    const texts = [
      'name=db,to=127.0.0.1:5432,port=5432',
      'name=cache.local,to=/run/cache.sock',
      'name=v6,to="[::1]:80"',
    ];
    const { host_services, vsock } = parse({ ...KERNEL, 'host-service': texts });
    expect(host_services).toEqual([
      { name: 'db', to: '127.0.0.1:5432', port: 5432 },
      { name: 'cache.local', to: '/run/cache.sock' },
      { name: 'v6', to: '[::1]:80' },
    ]);
    expect(vsock).toEqual({ cid: 3 });
  });

  test.each<[string, ConfigErrorCode, string]>([
    ['name=db', 'MISSING_KEY', '--host-service to: missing'],
    ['to=127.0.0.1:1', 'MISSING_KEY', '--host-service name: missing'],
    ['name=../db,to=127.0.0.1:1', 'WRONG_TYPE', '--host-service name: "../db" cannot be the name of a service'],
    ['name=-,to=127.0.0.1:1', 'WRONG_TYPE', '--host-service name: "-" cannot be'],
    ['name=db,to=5432', 'WRONG_TYPE', '--host-service to: "5432" is no place on the host'],
    ['name=db,to=db.sock', 'WRONG_TYPE', 'or a path with a slash'],
    ['name=db,to=127.0.0.1:0', 'WRONG_TYPE', '"127.0.0.1:0" is no place'],
    ['name=db,to=127.0.0.1:1,port=0', 'OUT_OF_RANGE', '--host-service port: there is no port 0'],
    ['name=db,to=127.0.0.1:1,guest=3', 'UNKNOWN_KEY', 'there is no "guest"'],
  ])('%s is refused', (text, code, message) => {
    expectRefusal({ ...KERNEL, 'host-service': text }, code, message);
  });

  test('names and ports are had once, and the built-in guest has no agent', () => {
    const twice = ['name=db,to=/a', 'name=db,to=/b'];
    expectRefusal({ ...KERNEL, 'host-service': twice }, 'DUPLICATE', '--host-service name (second): two services');
    const samePort = ['name=a,to=/a,port=1', 'name=b,to=/b,port=1'];
    expectRefusal(
      { ...KERNEL, 'host-service': samePort },
      'DUPLICATE',
      '--host-service port (second): another service',
    );
    expectRefusal(
      { 'host-service': 'name=db,to=/a' },
      'CONFLICT',
      '--host-service name: the built-in guest has no agent',
    );
  });
});

describe('the sections of a configuration', () => {
  test('a library user needs no vsock section', () => {
    const config = validateVmConfig({ publish: [{ host_port: 0, vsock_port: 7 }] });
    expect(config.vsock).toEqual({ cid: 3 });
    expect(validateVmConfig({ publish: [], host_services: [] }).vsock).toBeUndefined();
  });

  test.each<[unknown, ConfigErrorCode, string]>([
    [{ publish: [{ host_port: 1 }] }, 'MISSING_KEY', 'publish[0].guest_port: missing. Give it, or a vsock_port'],
    [{ publish: [{ guest_port: 1 }] }, 'MISSING_KEY', 'publish[0].host_port: missing'],
    [
      { publish: [{ host_port: 1, guest_port: 1, vsock_port: 1 }] },
      'CONFLICT',
      'publish[0].vsock_port: there is a guest_port',
    ],
    [{ publish: [{ host_port: 1.5, vsock_port: 1 }] }, 'WRONG_TYPE', 'publish[0].host_port: 1.5 is not a whole number'],
    [{ publish: [{ host: '[::1]', host_port: 1, vsock_port: 1 }] }, 'WRONG_TYPE', 'publish[0].host: "[::1]" is not'],
    [{ publish: [{ host_port: 1, guest: 1 }] }, 'UNKNOWN_KEY', 'publish[0].guest: no such key'],
    [
      { publish: [{ host_port: 1, guest_port: 80 }] },
      'CONFLICT',
      'publish[0].guest_port: the built-in guest has no agent',
    ],
    [
      { publish: Array.from({ length: 1025 }, () => ({ host_port: 0, vsock_port: 1 })) },
      'OUT_OF_RANGE',
      'there are 1025',
    ],
    [{ host_services: [{ name: 'db' }] }, 'MISSING_KEY', 'host_services[0].to: missing'],
  ])('%j is refused', (config, code, message) => {
    expectRefusedConfig(config, code, message);
  });

  const file = completeVmConfig(
    {
      payload: { kernel: '/proc/version' },
      publish: [{ host_port: 1, guest_port: 1 }],
      host_services: [{ name: 'db', port: 5, to: '/a' }],
    },
    byPath,
  );
  const over = (texts: Record<string, string[]>, devicesFixed: boolean): ReturnType<typeof parseVmOptions> =>
    parseVmOptions(new Map(Object.entries(texts)), {
      config: devicesFixed ? { ...file, vsock: { cid: 7 } } : file,
      hasSerial: false,
      file: 'vm.json',
      devicesFixed,
    });

  test('options over a file add ports, and change or add services by their names', () => {
    const config = over({ publish: ['2:2'], 'host-service': ['name=db,to=/b', 'name=c,to=/c'] }, false);
    expect(config.publish).toEqual([...(file.publish ?? []), { host_port: 2, guest_port: 2 }]);
    expect(config.host_services).toEqual([
      { name: 'db', port: 5, to: '/b' },
      { name: 'c', to: '/c' },
    ]);
    const none = over({ publish: ['none'], 'host-service': ['none', 'name=db,to=/b'] }, false);
    expect(none.publish).toEqual([]);
    expect(none.host_services).toEqual([{ name: 'db', to: '/b' }]);
    expect(() => over({ publish: ['1:9'] }, false)).toThrow(/^--publish: 127.0.0.1:1 leads to another place already/);
  });

  test('options over a saved machine replace the lists', () => {
    expect(over({}, true)).toMatchObject({ publish: file.publish, host_services: file.host_services });
    const config = over({ publish: ['2:2', '3:3'], 'host-service': ['name=db,to=/b'] }, true);
    expect(config.publish?.map(({ host_port }) => host_port)).toEqual([2, 3]);
    expect(config.host_services).toEqual([{ name: 'db', to: '/b' }]);
    expect(over({ publish: ['none'] }, true)).toMatchObject({ publish: [], host_services: file.host_services });
  });
});

test.each([
  ['127.0.0.1:5432', { host: '127.0.0.1', port: 5432 }],
  ['db.example.org:1', { host: 'db.example.org', port: 1 }],
  ['[::1]:65535', { host: '::1', port: 65_535 }],
  ['/run/db.sock', { path: '/run/db.sock' }],
  ['./db', { path: './db' }],
  ['../db', { path: '../db' }],
  ['[::x]:1', undefined],
  ['::1:1', undefined],
  ['[127.0.0.1]:1', undefined],
  ['a b:1', undefined],
  [':1', undefined],
  ['a:', undefined],
  ['a:65536', undefined],
  ['a:1x', undefined],
  ['/a\0b', undefined],
])('where a service is: %j', (text, place) => {
  expect(parseStreamAddress(text)).toEqual(place);
});
