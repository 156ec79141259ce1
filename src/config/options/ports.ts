// Ports between host and guest that need no network: they go over vsock.

import { keyedOption, optional, required } from '../keyed-option.js';
import { type OptionSpec, plainOption } from '../option-spec.js';
import { published } from '../publish-value.js';
import { integer, text } from '../values.js';
import { given } from './given.js';

const HOST_SERVICE = keyedOption({
  name: 'host-service',
  help:
    'A service of the host that programs in the guest reach by name, through its agent; give it again for more ' +
    '(none: not those of --config or --restore)',
  repeatable: true,
  keys: {
    name: required(text('NAME'), 'host_services[].name', 'Its name; it is at /run/tsvmm/NAME.sock in the guest'),
    to: required(
      text('PLACE'),
      'host_services[].to',
      'Where it is on the host: 127.0.0.1:5432, or the path of a Unix socket',
    ),
    port: optional(integer, 'host_services[].port', 'TCP port at 127.0.0.1 in the guest, too (only the socket)'),
  },
  into: ({ name, port, to }) => ({ host_services: [{ name, to, ...given({ port }) }] }),
});

export const PORT_OPTIONS: readonly OptionSpec[] = [
  plainOption({
    name: 'publish',
    kind: published,
    field: 'publish',
    repeatable: true,
    help:
      'A TCP port of the host (0: a free one) that leads to one of 127.0.0.1 in the guest, through its agent; ' +
      '8080:vsock:7 leads to a vsock port, without one; give it again for more (none: not those of --config or --restore)',
    into: (publish) => ({ publish }),
  }),
  {
    ...HOST_SERVICE,
    read: (value, which) => (value.trim() === 'none' ? { host_services: [] } : HOST_SERVICE.read(value, which)),
  },
];
