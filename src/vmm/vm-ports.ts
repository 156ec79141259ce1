// Ports of the host that lead into a guest, and services of the host that the guest reaches: those of the configuration, and
// those that are asked for later. Main thread; loaded when there are some.

import { AgentError } from '../agent/errors.js';
import type { GuestAgent } from '../agent/guest-agent.js';
import { type PublishedPort, publishPort, type PublishOptions, type PublishVsockOptions } from '../agent/publish.js';
import { reachVsock } from '../agent/reach.js';
import type { AgentTransport } from '../agent/transport.js';
import type { PublishConfig, VmConfig } from '../config/vm-config.js';
import { VmError } from './errors.js';

/** What of a VM is used; its agent's half is made when it is first asked for, and not for vsock ports. */
export interface PortsOwner {
  readonly config: VmConfig;
  readonly agent: GuestAgent;
}

/**
 * Opens what the configuration has. Throws VmError HOST_PORT; who has made the VM ends it then, and with it what is open
 * already.
 */
export async function openConfiguredPorts(
  owner: PortsOwner,
  transport: AgentTransport,
): Promise<readonly PublishedPort[]> {
  const { publish = [], host_services = [] } = owner.config;
  const opened: PublishedPort[] = [];
  for (const each of publish) opened.push(await openConfigured(owner, transport, each));
  for (const { name, port, to } of host_services) await owner.agent.expose({ name, guestPort: port, to });
  return opened;
}

async function openConfigured(
  owner: PortsOwner,
  transport: AgentTransport,
  { host, host_port, guest_port, vsock_port = 0 }: PublishConfig,
): Promise<PublishedPort> {
  const from = { host, hostPort: host_port };
  try {
    const to = guest_port === undefined ? { vsockPort: vsock_port } : { guestPort: guest_port };
    return await openPort(owner, transport, { ...from, ...to });
  } catch (error) {
    if (!(error instanceof AgentError) || error.code !== 'HOST_PORT') throw error;
    const [problem = error.message, mend = ''] = error.message.split('; ');
    throw new VmError('HOST_PORT', problem, mend, error);
  }
}

/** As `Vm.publish`. */
export async function openPort(
  owner: Pick<PortsOwner, 'agent'>,
  transport: AgentTransport,
  options: PublishOptions | PublishVsockOptions,
): Promise<PublishedPort> {
  if ('guestPort' in options) return owner.agent.publish(options);
  const vm = { ended: false };
  void transport.ended.then(() => {
    vm.ended = true;
  });
  const port = await publishPort(options, reachVsock(transport, options.vsockPort), transport.warn);
  void transport.ended.then(() => port.close());
  if (!vm.ended) return port;
  throw new AgentError('GUEST_GONE', 'the VM has ended');
}
