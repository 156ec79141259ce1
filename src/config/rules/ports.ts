// Rules for ports without a network: published ports and services of the host. Whether a port of the host is free is found out
// when it is listened at.

import { isIP } from 'node:net';
import { formatHostPort, isServiceName, MAX_TCP_PORT, parseStreamAddress } from '../../platform/net-address.js';
import { showValue } from '../config-error.js';
import type { HostServiceConfig, PublishConfig, VmConfig } from '../vm-config.js';
import type { Complain } from './rule.js';

const MAX_VSOCK_PORT = 0xffff_fffe;
const LOOPBACK = '127.0.0.1';
/** Each has a process in the guest and a thing or two on the host; more than this is a slip. */
const MAX_PORTS = 1024;

export function checkPorts(config: VmConfig, complain: Complain): void {
  const { publish = [], host_services = [] } = config;
  checkLength('publish', publish, complain);
  checkLength('host_services', host_services, complain);
  publish.forEach((each, index) => {
    checkPublished(`publish[${index}]`, each, complain);
    refuseSame(`publish[${index}].host_port`, each, publish.slice(0, index), complain);
  });
  host_services.forEach((each, index) => {
    checkService(`host_services[${index}]`, each, complain);
    refuseSameService(`host_services[${index}]`, each, host_services.slice(0, index), complain);
  });
  checkGuest(config, complain);
}

/** What the guest must have for them. */
function checkGuest({ publish = [], host_services = [], vsock, payload }: VmConfig, complain: Complain): void {
  const first = publish.length > 0 ? 'publish[0]' : 'host_services[0]';
  if (vsock === undefined && publish.length + host_services.length > 0) {
    const mend = 'Leave it out; a vsock device cannot be given to a machine that was saved.';
    complain(first, undefined, { code: 'CONFLICT', problem: 'the saved VM has no vsock, over which it goes', mend });
  }
  if (payload.kernel !== undefined) return;
  const problem = 'the built-in guest has no agent, through which it goes';
  const tcp = publish.findIndex(({ guest_port }) => guest_port !== undefined);
  if (tcp >= 0) {
    const mend = 'Lead to one of its vsock ports, like 8080:vsock:7, or name a kernel.';
    complain(`publish[${tcp}].guest_port`, publish[tcp]?.guest_port, { code: 'CONFLICT', problem, mend });
  }
  if (host_services.length > 0) {
    complain('host_services[0].name', host_services[0]?.name, { code: 'CONFLICT', problem, mend: 'Name a kernel.' });
  }
}

function checkPublished(field: string, published: PublishConfig, complain: Complain): void {
  const { host, host_port, guest_port, vsock_port } = published;
  if (host !== undefined && isIP(host) === 0) {
    complain(`${field}.host`, host, {
      code: 'WRONG_TYPE',
      problem: `${showValue(host)} is not an address of the host`,
      mend: 'Write one like 127.0.0.1 or ::1, which has brackets around it in --publish only.',
    });
  }
  checkPort(`${field}.host_port`, host_port, [0, MAX_TCP_PORT], complain);
  if (guest_port !== undefined && vsock_port !== undefined) {
    const mend = 'Give one of the two.';
    complain(`${field}.vsock_port`, vsock_port, { code: 'CONFLICT', problem: 'there is a guest_port, too', mend });
  }
  if (guest_port !== undefined) checkPort(`${field}.guest_port`, guest_port, [1, MAX_TCP_PORT], complain);
  else if (vsock_port !== undefined) checkPort(`${field}.vsock_port`, vsock_port, [0, MAX_VSOCK_PORT], complain);
  else {
    const mend = 'Give it, or a vsock_port.';
    complain(`${field}.guest_port`, undefined, { code: 'MISSING_KEY', problem: 'missing', mend });
  }
}

function checkService(field: string, { name, port, to }: HostServiceConfig, complain: Complain): void {
  if (!isServiceName(name)) {
    complain(`${field}.name`, name, {
      code: 'WRONG_TYPE',
      problem: `${showValue(name)} cannot be the name of a service`,
      mend: 'Use letters, digits, and behind the first -, _ and ., at most 63.',
    });
  }
  if (port !== undefined) checkPort(`${field}.port`, port, [1, MAX_TCP_PORT], complain);
  if (parseStreamAddress(to) === undefined) {
    complain(`${field}.to`, to, {
      code: 'WRONG_TYPE',
      problem: `${showValue(to)} is no place on the host`,
      mend: 'Write it like 127.0.0.1:5432 or [::1]:5432, or a path with a slash, like /run/db.sock or ./db.sock.',
    });
  }
}

function checkPort(
  field: string,
  value: number,
  [min, max]: readonly [min: number, max: number],
  complain: Complain,
): void {
  const mend = `Use ${min} to ${max}.`;
  if (!Number.isInteger(value)) {
    complain(field, value, { code: 'WRONG_TYPE', problem: `${value} is not a whole number`, mend });
  }
  if (value < min || value > max)
    complain(field, value, { code: 'OUT_OF_RANGE', problem: `there is no port ${value}`, mend });
}

function refuseSame(field: string, one: PublishConfig, others: readonly PublishConfig[], complain: Complain): void {
  const { host = LOOPBACK, host_port } = one;
  if (host_port === 0 || !others.some((each) => (each.host ?? LOOPBACK) === host && each.host_port === host_port))
    return;
  const problem = `${formatHostPort(host, host_port)} leads to another place already`;
  complain(field, host_port, { code: 'DUPLICATE', problem, mend: 'Use another port of the host.' });
}

function refuseSameService(
  field: string,
  { name, port }: HostServiceConfig,
  others: readonly HostServiceConfig[],
  complain: Complain,
): void {
  if (others.some((each) => each.name === name)) {
    const problem = `two services are called ${showValue(name)}`;
    complain(`${field}.name`, name, { code: 'DUPLICATE', problem, mend: 'Give each its own name.' });
  }
  if (port !== undefined && others.some((each) => each.port === port)) {
    const problem = `another service is at port ${port} of the guest`;
    complain(`${field}.port`, port, { code: 'DUPLICATE', problem, mend: 'Give each its own port, or none.' });
  }
}

function checkLength(field: string, list: readonly unknown[], complain: Complain): void {
  if (list.length <= MAX_PORTS) return;
  const problem = `there are ${list.length}`;
  complain(field, list.length, { code: 'OUT_OF_RANGE', problem, mend: `Have at most ${MAX_PORTS}.` });
}
