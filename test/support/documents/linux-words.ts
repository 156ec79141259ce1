// What the kernel of the tests needs beside what a document gives it, for it runs on hosts that emulate kernel mode
// (test/guest/README.md): words on its command line, and less memory than usual, for a boot there takes the longer the more
// pages it has to make known to itself.

import { LINUX_CMDLINE } from '../linux-guest.js';

const OF_DOCUMENTS = ['console=ttyS0', 'reboot=k', 'panic=-1'];

export const LINUX_WORDS = LINUX_CMDLINE.split(' ')
  .filter((word) => !OF_DOCUMENTS.includes(word))
  .join(' ');

/** In MiB, wherever a document does not say. */
export const LINUX_MEMORY = 64;
