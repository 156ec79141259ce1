// The endpoints of Cloud Hypervisor's REST API, version 1: the one table behind the server and docs/api.md. Main thread.

import { validateVmConfig } from '../config/validate.js';
import { packageVersion } from '../platform/package-version.js';
import {
  destinationPath,
  refuseBody,
  resizeRequest,
  restoreRequest,
  snapshotRequest,
  withoutPtyPaths,
} from './bodies.js';
import { badRequest } from './errors.js';
import type { Monitor } from './monitor.js';

export const API_ROOT = '/api/v1/';

export interface Endpoint {
  /** Follows `API_ROOT`. */
  readonly name: string;
  readonly method: 'GET' | 'PUT';
  /** What it does, for the documentation. */
  readonly summary: string;
  /** What did not come about when it fails. */
  readonly problem: string;
  /** Returns the body of the answer, if it has one. Throws Refusal, ApiError, or what the VM throws. */
  readonly run: (monitor: Monitor, body: unknown) => Promise<object | undefined> | object | undefined;
}

type Action = (monitor: Monitor, body: unknown) => Promise<void>;

function get(name: string, summary: string, problem: string, run: (monitor: Monitor) => object): Endpoint {
  return { name, method: 'GET', summary, problem, run };
}

function put(name: string, summary: string, problem: string, action: Action): Endpoint {
  return {
    name,
    method: 'PUT',
    summary,
    problem,
    run: async (monitor, body) => {
      await action(monitor, body);
      return undefined;
    },
  };
}

/** One that takes no body. */
function order(name: string, summary: string, problem: string, action: (monitor: Monitor) => Promise<void>): Endpoint {
  return put(name, summary, problem, (monitor, body) => {
    refuseBody(body);
    return action(monitor);
  });
}

/** One that exists in Cloud Hypervisor and cannot be done here. */
function unsupported(name: string, problem: string, reason: string): Endpoint {
  return put(name, `Refused: ${reason}`, problem, (monitor, body) => {
    if (body === undefined) throw badRequest('this request takes a JSON body');
    return monitor.refuseForVm(reason);
  });
}

const NO_HOTPLUG = 'devices are not plugged in or out; name them in vm.create';
const NO_MIGRATION = 'there is no live migration; use vm.snapshot and vm.restore';

export const ENDPOINTS: readonly Endpoint[] = [
  get('vmm.ping', 'Version and process id of the monitor', 'The VMM does not answer', () => {
    const version = packageVersion();
    return { build_version: `tsvmm ${version}`, version, pid: process.pid, features: ['kvm'] };
  }),
  order('vmm.shutdown', 'Ends the VM and the monitor', 'The VMM could not shutdown', (monitor) => monitor.shutdown()),
  put(
    'vm.create',
    'Takes the configuration of the VM, which does not boot yet',
    'The VM could not be created',
    (monitor, body) => {
      if (body === undefined) throw badRequest('this request takes a JSON body: the configuration of the VM');
      return monitor.create(validateVmConfig(withoutPtyPaths(body)));
    },
  ),
  order('vm.boot', 'Boots the VM', 'The VM could not boot', (monitor) => monitor.boot()),
  get('vm.info', 'Configuration and state of the VM', 'The VM info is not available', (monitor) => monitor.info()),
  get('vm.counters', 'What its devices have counted', 'The VM counters are not available', (monitor) =>
    monitor.counters(),
  ),
  order('vm.pause', 'Holds the guest and its devices', 'The VM could not be paused', (monitor) => monitor.pause()),
  order('vm.resume', 'Lets a paused VM go on', 'The VM could not resume', (monitor) => monitor.resume()),
  order('vm.reboot', 'Resets the machine; a paused one runs again', 'The VM could not reboot', (monitor) =>
    monitor.reboot(),
  ),
  order('vm.shutdown', 'Ends the VM as pulling the plug does', 'The VM could not shutdown', (monitor) =>
    monitor.shutdownVm(),
  ),
  order('vm.delete', 'Forgets the VM, after shutting it down', 'The VM could not be deleted', (monitor) =>
    monitor.delete(),
  ),
  order('vm.power-button', 'Presses the power button', 'Error triggering power button', (monitor) =>
    monitor.powerButton(),
  ),
  order('vm.nmi', 'Interrupts every vCPU with an NMI', 'Error triggering NMI', (monitor) => monitor.nmi()),
  put('vm.resize', 'Changes the size of the balloon', 'The VM could not be resized', (monitor, body) =>
    monitor.resize(resizeRequest(body)),
  ),
  put('vm.snapshot', 'Saves a paused VM into a folder', 'The VM could not be snapshotted', (monitor, body) => {
    const { directory, diff } = snapshotRequest(body);
    return monitor.snapshot(directory, diff);
  }),
  put(
    'vm.restore',
    'Brings a saved VM back, paused unless told otherwise',
    'The VM could not be restored',
    (monitor, body) => {
      const { directory, ...options } = restoreRequest(body);
      return monitor.restore(directory, options);
    },
  ),
  put('vm.coredump', 'Writes memory and registers to an ELF core', 'The VM could not be coredumped', (monitor, body) =>
    monitor.coredump(destinationPath(body)),
  ),
  unsupported('vm.resize-disk', 'The disk could not be resized', 'disks are not resized while the VM exists'),
  unsupported('vm.resize-zone', 'The memory zone could not be resized', 'there are no memory zones'),
  unsupported('vm.add-device', 'The device could not be added to the VM', NO_HOTPLUG),
  unsupported('vm.add-user-device', 'The user device could not be added to the VM', NO_HOTPLUG),
  unsupported('vm.add-disk', 'The disk could not be added to the VM', NO_HOTPLUG),
  unsupported('vm.add-fs', 'The fs could not be added to the VM', NO_HOTPLUG),
  unsupported('vm.add-generic-vhost-user', 'The device could not be added to the VM', NO_HOTPLUG),
  unsupported('vm.add-net', 'The network device could not be added to the VM', NO_HOTPLUG),
  unsupported('vm.add-pmem', 'The pmem device could not be added to the VM', NO_HOTPLUG),
  unsupported('vm.add-vdpa', 'The vDPA device could not be added to the VM', NO_HOTPLUG),
  unsupported('vm.add-vsock', 'The vsock device could not be added to the VM', NO_HOTPLUG),
  unsupported('vm.remove-device', 'The device could not be removed from the VM', NO_HOTPLUG),
  unsupported('vm.send-migration', 'Error starting migration sender', NO_MIGRATION),
  unsupported('vm.receive-migration', 'Error starting migration receiver', NO_MIGRATION),
];
