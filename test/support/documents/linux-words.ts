// What the kernel of the tests needs on its command line beside what a document gives it, for it runs on hosts that emulate
// kernel mode (test/guest/README.md).

import { LINUX_CMDLINE } from '../linux-guest.js';

const OF_DOCUMENTS = ['console=ttyS0', 'reboot=k', 'panic=-1'];

export const LINUX_WORDS = LINUX_CMDLINE.split(' ')
  .filter((word) => !OF_DOCUMENTS.includes(word))
  .join(' ');
