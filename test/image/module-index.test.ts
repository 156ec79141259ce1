// What depmod has written of a kernel's modules: names, needs, order, what is in the kernel, and texts that contradict
// themselves.

import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { ImageError } from '../../src/image/errors.js';
import { ModuleIndex, moduleName, type ModuleTexts } from '../../src/image/module-index.js';

function indexOf(dependencies: string, more: Partial<ModuleTexts> = {}): ModuleIndex {
  return new ModuleIndex({ dependencies, builtin: '', soft: '', aliases: '', ...more }, 'modules.dep');
}

function errorOf(work: () => unknown): ImageError {
  try {
    work();
  } catch (error) {
    if (error instanceof ImageError) return error;
    throw error;
  }
  throw new Error('nothing was refused');
}

describe('names of modules', () => {
  test.each([
    ['kernel/drivers/char/hw_random/virtio-rng.ko', 'virtio_rng'],
    ['kernel/fs/ext4/ext4.ko.gz', 'ext4'],
    ['updates/dkms/a-b.ko.zst', 'a_b'],
    ['x.ko.xz', 'x'],
    ['virtio_rng', 'virtio_rng'],
  ])('%s is %s', (path, name) => {
    expect(moduleName(path)).toBe(name);
  });
});

describe('the order of loading', () => {
  const CHAIN = [
    'kernel/net/802/garp.ko: kernel/net/802/stp.ko kernel/net/llc/llc.ko',
    'kernel/net/802/stp.ko: kernel/net/llc/llc.ko',
    'kernel/net/llc/llc.ko:',
    'kernel/net/8021q/8021q.ko.xz: kernel/net/802/garp.ko kernel/net/802/stp.ko kernel/net/llc/llc.ko',
    '',
  ].join('\n');

  test('each module comes behind what it needs, once, and nothing comes with it that nobody needs', () => {
    const index = indexOf(CHAIN);
    const chain = ['kernel/net/llc/llc.ko', 'kernel/net/802/stp.ko', 'kernel/net/802/garp.ko'];
    expect(index.inOrder(['garp'])).toEqual(chain);
    expect(index.inOrder(['stp', '8021q', 'llc', 'none'])).toEqual([...chain, 'kernel/net/8021q/8021q.ko.xz']);
    expect(index.inOrder([])).toEqual([]);
  });

  test('what only the line of a needed module says counts as well', () => {
    expect(indexOf('a.ko: b.ko\nb.ko: c.ko\nc.ko:\n').inOrder(['a'])).toEqual(['c.ko', 'b.ko', 'a.ko']);
  });

  test('any kernel: all needs are there, and before', () => {
    // Module n needs some of those with lower numbers, as no kernel has circles.
    const needs = fc.array(fc.array(fc.nat(), { maxLength: 5 }), { minLength: 1, maxLength: 30 });
    fc.assert(
      fc.property(needs, fc.array(fc.nat(40)), (all, wanted) => {
        const lines = all.map((each, n) => {
          const needed = n === 0 ? [] : [...new Set(each.map((number) => number % n))];
          return { path: `m${n}.ko`, needed: needed.map((number) => `m${number}.ko`) };
        });
        const index = indexOf(lines.map(({ path, needed }) => `${path}: ${needed.join(' ')}`).join('\n'));
        const order = index.inOrder(wanted.map((n) => `m${n}`));
        expect(new Set(order).size).toBe(order.length);
        for (const n of wanted) if (n < all.length) expect(order).toContain(`m${n}.ko`);
        for (const { path, needed } of lines) {
          if (!order.includes(path)) continue;
          for (const each of needed) expect(order.slice(0, order.indexOf(path))).toContain(each);
        }
      }),
    );
  });

  test('soft needs come before and after, by name and by every alias; those that are nowhere are left out', () => {
    const index = indexOf(
      'ext4.ko: jbd2.ko\njbd2.ko:\ncrc32c_generic.ko:\ncrc32c-intel.ko: crypto.ko\ncrypto.ko:\nz.ko:\n',
      {
        soft: '# a comment\nsoftdep ext4 pre: crc32c nothing post: z\n',
        aliases: 'alias crc32c crc32c_intel\nalias crc32c crc32c_generic\nalias pci:v*d* z\n',
      },
    );
    expect(index.inOrder(['ext4'])).toEqual([
      'crypto.ko',
      'crc32c-intel.ko',
      'crc32c_generic.ko',
      'jbd2.ko',
      'ext4.ko',
      'z.ko',
    ]);
  });

  test('soft needs in a circle are none', () => {
    const soft = 'softdep a pre: b\nsoftdep b pre: a\nsoftdep c pre: d post: c\n';
    const index = indexOf('a.ko:\nb.ko:\nc.ko:\nd.ko: c.ko\n', { soft });
    expect(index.inOrder(['a'])).toEqual(['b.ko', 'a.ko']);
    // d needs c, so c cannot wait for d.
    expect(index.inOrder(['c', 'd'])).toEqual(['c.ko', 'd.ko']);
  });
});

test('a module is in a file, in the kernel, or nowhere', () => {
  const index = indexOf('kernel/virtio-rng.ko.xz:\n', { builtin: 'kernel/fs/ext4/ext4.ko\nkernel/a-b.ko\n' });
  const names = ['virtio_rng', 'virtio-rng', 'ext4', 'a_b', 'xfs'];
  expect(names.map((name) => index.find(name))).toEqual(['module', 'module', 'builtin', 'builtin', undefined]);
});

describe('what contradicts itself is refused, with the line or the module', () => {
  test.each([
    ['a path that leads out', '../../../etc/shadow.ko:\n', 'line 1 names "../../../etc/shadow.ko"'],
    ['a need that leads out', 'a.ko:\nb.ko: x/../../a.ko\n', 'line 2 names "x/../../a.ko"'],
    ['an absolute path', '/lib/modules/a.ko:\n', 'line 1 names "/lib/modules/a.ko"'],
    ['no module', 'kernel/passwd:\n', 'line 1 names "kernel/passwd"'],
    ['a line without a colon', '# kernel\n\nkernel/a.ko\n', 'line 3 is no'],
    ['a name with a NUL', 'a\0.ko:\n', 'which is no module below this folder'],
  ])('%s', (_, text, detail) => {
    const error = errorOf(() => indexOf(text));
    expect(error).toMatchObject({ code: 'bad-modules', file: 'modules.dep' });
    expect(error.detail).toContain(detail);
  });

  test.each([
    ['a circle', 'a.ko: b.ko\nb.ko: c.ko\nc.ko: a.ko\n', '"c.ko" needs "a.ko", which needs it in turn'],
    ['a module that needs itself', 'a.ko: a.ko\n', '"a.ko" needs "a.ko"'],
    ['a need without a line', 'a.ko: b.ko\n', '"a.ko" needs "b.ko", which has no line of its own'],
  ])('%s', (_, text, detail) => {
    const error = errorOf(() => indexOf(text).inOrder(['a']));
    expect(error).toMatchObject({ code: 'bad-modules', file: 'modules.dep' });
    expect(error.detail).toContain(detail);
  });

  test('a chain without an end', () => {
    const chain = Array.from({ length: 100_000 }, (_, n) => `m${n}.ko: m${n + 1}.ko`).join('\n');
    expect(errorOf(() => indexOf(chain).inOrder(['m0'])).detail).toContain('100 times over');
  });

  test('any text is an index or refused', () => {
    const word = fc.constantFrom('a.ko', 'b.ko', ':', ' ', '\n', '..', '/', 'softdep', 'pre:', 'alias', 'a', '#', '\0');
    const text = fc.array(word).map((words) => words.join(''));
    fc.assert(
      fc.property(text, text, text, (dependencies, soft, aliases) => {
        try {
          const order = indexOf(dependencies, { soft, aliases }).inOrder(['a', 'b']);
          expect(order.every((path) => !path.includes('..') && !path.startsWith('/'))).toBe(true);
        } catch (error) {
          expect(error).toMatchObject({ code: 'bad-modules' });
        }
      }),
    );
  });
});
