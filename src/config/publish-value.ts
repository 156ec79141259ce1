// The values of --publish: `8080:80`, `[::1]:8080:80`, `8080:vsock:7`, `none`.

import { showValue } from './config-error.js';
import { unquote } from './option-grammar.js';
import { ValueError, type ValueKind } from './values.js';
import type { PublishConfig } from './vm-config.js';

const PORTS = /^(?:(\[[^\]]*\]|[^:[\]]*):)?([0-9]+):(vsock:)?([0-9]+)$/;

/** One port, or none. Which numbers and addresses can be is a rule. */
export const published: ValueKind<readonly PublishConfig[]> = {
  metavar: '[ADDRESS:]PORT:GUESTPORT',
  parse: (given) => {
    const value = unquote(given);
    if (value === 'none') return [];
    const match: readonly (string | undefined)[] = PORTS.exec(value) ?? [];
    const [, address, hostPort, vsock, guestPort] = match;
    if (hostPort === undefined || guestPort === undefined) {
      throw new ValueError({
        code: 'WRONG_TYPE',
        problem: `${showValue(value)} is not a port of the host and one of the guest with a colon between them`,
        mend: 'Write it like 8080:80, 127.0.0.1:8080:80 or 8080:vsock:7.',
      });
    }
    const host = address === undefined ? {} : { host: address.replace(/^\[|\]$/g, '') };
    const to = vsock === undefined ? { guest_port: Number(guestPort) } : { vsock_port: Number(guestPort) };
    return [{ ...host, host_port: Number(hostPort), ...to }];
  },
};
