// Devices with little to say about them: random numbers, the balloon, the watchdog and the panic port.

import { keyedOption, optional } from '../keyed-option.js';
import { flagOption, type OptionSpec } from '../option-spec.js';
import { byteSize, path, toggle } from '../values.js';
import { DEFAULT_RNG_SOURCE } from '../vm-config.js';
import { given } from './given.js';
import { PCI_KEYS_OF_ONLY_DEVICE } from './refused.js';

export const SMALL_DEVICE_OPTIONS: readonly OptionSpec[] = [
  keyedOption({
    name: 'rng',
    help: 'Random numbers for the guest; there without being asked for when a kernel is named',
    keys: { src: optional(path, 'rng.src', `Where they come from (${DEFAULT_RNG_SOURCE})`) },
    notSupported: PCI_KEYS_OF_ONLY_DEVICE,
    into: ({ src = DEFAULT_RNG_SOURCE }) => ({ rng: { src } }),
  }),
  keyedOption({
    name: 'balloon',
    help: 'Takes memory back from the guest',
    keys: {
      size: optional(byteSize, 'balloon.size', 'Bytes taken at the start, a multiple of 4096 (0)'),
      deflate_on_oom: optional(
        toggle,
        'balloon.deflate_on_oom',
        'The guest may take memory back when it runs out (off)',
      ),
      free_page_reporting: optional(
        toggle,
        'balloon.free_page_reporting',
        'The guest tells of pages that it does not use, and the host gets them (off)',
      ),
    },
    notSupported: PCI_KEYS_OF_ONLY_DEVICE,
    into: ({ size = 0, ...rest }) => ({ balloon: { size, ...given(rest) } }),
  }),
  flagOption({
    name: 'watchdog',
    field: 'watchdog',
    help: 'A timer that resets a guest which stops feeding it',
    into: { watchdog: true },
  }),
  flagOption({
    name: 'pvpanic',
    field: 'pvpanic',
    help: 'A port where the guest tells that it panicked',
    into: { pvpanic: true },
  }),
];
