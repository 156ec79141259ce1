// Where the agent's program is: firmware/agent, committed with its source.

import { fileURLToPath } from 'node:url';

/** The path on the host of the agent's program, to be put into a guest: x86-64, static, for any Linux. */
export const GUEST_AGENT = fileURLToPath(new URL('../../../firmware/agent/tsvmm-agent', import.meta.url));
