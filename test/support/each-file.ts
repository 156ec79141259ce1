// Around every test file: the threads that its VMs have left for the next VM end with it. Each file has a pool of its own, but
// all files of a Jest worker share the process, whose threads and descriptors some of them count.

import { afterAll } from '@jest/globals';
import { endIdleThreads } from '../../src/vmm/worker-pool.js';

afterAll(endIdleThreads);
