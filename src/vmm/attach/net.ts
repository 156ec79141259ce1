// A network device on the main thread: opens its tap and sets up what the configuration says of it, which has been checked
// (config/rules/net.ts).
//
// What is given is what the tap has afterwards, whether it was there before or not. What is there as it should be is not
// touched, so a tap that somebody has prepared needs no privilege. Without `ip` no address is set: several machines would
// get the same one.

import type { NetConfig } from '../../config/vm-config.js';
import { ALL_OFFLOADS, consistent } from '../../devices/net/offloads.js';
import { DEFAULT_QUEUE_SIZE, NET_COUNTERS, netIdentity, type NetSettings } from '../../devices/net/settings.js';
import { rateLimiterSettings } from '../../devices/rate-limiter.js';
import { EACCES, EBUSY, EINVAL, ENODEV, ENOENT, ENXIO, EPERM, SysError } from '../../platform/errno.js';
import { close } from '../../platform/libc.js';
import { formatMac, parseIpv4, parseMac, randomMac } from '../../platform/net-address.js';
import { NetInterface } from '../../platform/net-interface.js';
import {
  openTap,
  trySetOffload,
  TUN_F_CSUM,
  TUN_F_TSO4,
  TUN_F_TSO6,
  TUN_F_TSO_ECN,
  TUN_F_UFO,
  TUN_PATH,
  type OpenTap,
} from '../../platform/tap.js';
import { VmError } from '../errors.js';
import type { AttachContext, AttachedDevice } from './attached-device.js';

const DEFAULT_NETMASK = '255.255.255.0';

/** Opens the tap of the `index`th network device. Throws VmError. */
export function attachNet(config: NetConfig, index: number, context: AttachContext): AttachedDevice<NetSettings> {
  const { num_queues: queueCount = 2, queue_size: queueSize = DEFAULT_QUEUE_SIZE } = config;
  const pairs = queueCount / 2;
  const mac = config.mac === undefined ? randomMac() : parsed('mac', config.mac, parseMac);
  const tap = takeTap(config.tap, pairs, context);
  const mtu = setUp(tap.name, config);
  const offloads = supported(tap, wantedOffloads(config));
  context.log(
    'debug',
    `${tap.created ? 'created' : 'opened'} tap ${tap.name}; the guest's address is ${formatMac(mac)}, the MTU ${mtu}`,
  );
  return {
    id: config.id ?? `_net${index}`,
    identity: netIdentity({ mac, mtu, pairs, queueSize, offloads }),
    settings: { kind: 'net', queues: tap.queues, rateLimiter: rateLimiterSettings(config.rate_limiter_config) },
    counterNames: NET_COUNTERS,
  };
}

function problem(what: string, mend: string, cause?: unknown): VmError {
  return new VmError('TAP', `--net ${what}`, mend, cause);
}

/** `text` as `parse` understands it, which the rules have promised. */
function parsed(key: string, text: string, parse: (text: string) => Uint8Array | undefined): Uint8Array {
  const value = parse(text);
  if (value === undefined) throw new RangeError(`net.${key} ${text} was not checked`);
  return value;
}

function takeTap(name: string | undefined, pairs: number, { resources }: AttachContext): OpenTap {
  let tap: OpenTap;
  try {
    tap = openTap(name, pairs);
  } catch (error) {
    if (!(error instanceof SysError)) throw error;
    throw tapProblem(name, pairs, error);
  }
  for (const fd of tap.queues) resources.own(fd, close);
  return tap;
}

function tapProblem(name: string | undefined, pairs: number, error: SysError): VmError {
  const { errno, path } = error;
  const option = name === undefined ? 'without tap=' : `tap=${name}`;
  if (path === TUN_PATH) {
    if (errno === ENOENT || errno === ENODEV || errno === ENXIO) {
      return problem(`${option}: there is no ${TUN_PATH}`, "load the kernel's module for it: modprobe tun", error);
    }
    if (errno === EACCES || errno === EPERM) {
      return problem(`${option}: ${TUN_PATH} may not be opened`, 'run as a user who may read and write it', error);
    }
  }
  switch (errno) {
    case EPERM:
      return problem(
        `${option}: this user may not ${name === undefined ? 'create a tap' : 'create or use this tap'}`,
        `make one as root: ip tuntap add dev ${name ?? 'tap0'} mode tap user "$USER"${pairs > 1 ? ' multi_queue' : ''}` +
          `${name === undefined ? ', and name it here' : ''}; or give tsvmm CAP_NET_ADMIN`,
        error,
      );
    case EBUSY:
      return problem(`${option} is in use`, 'give each machine a tap of its own', error);
    case EINVAL:
      return pairs > 1 && name !== undefined && isSingleQueueTap(name)
        ? problem(
            `${option} has one queue, and num_queues=${2 * pairs} needs ${pairs}`,
            'make the tap with `ip tuntap add ... multi_queue`, or leave num_queues out',
            error,
          )
        : problem(
            `${option} is an interface, but not a tap`,
            'name a tap, or an interface that does not exist yet',
            error,
          );
    default:
      return problem(
        `${option} cannot be opened: ${error.message}`,
        'see whether the host has too many of something',
        error,
      );
  }
}

/** Whether `name` can be opened for one queue. */
function isSingleQueueTap(name: string): boolean {
  try {
    openTap(name, 1).queues.forEach(close);
    return true;
  } catch (error) {
    return error instanceof SysError && error.errno === EBUSY;
  }
}

/** Gives the tap its addresses and its MTU and brings it up. Returns the MTU. */
function setUp(name: string, config: NetConfig): number {
  using tap = new NetInterface(name);
  const { host_mac: hostMac, ip, mask = DEFAULT_NETMASK, mtu } = config;
  if (hostMac !== undefined) {
    change(name, `host_mac=${hostMac}`, `ip link set ${name} address ${hostMac}`, () => {
      tap.setMac(parsed('host_mac', hostMac, parseMac));
    });
  }
  if (mtu !== undefined) {
    change(name, `mtu=${mtu}`, `ip link set ${name} mtu ${mtu}`, () => {
      tap.setMtu(mtu);
    });
  }
  if (ip !== undefined) {
    change(name, `ip=${ip}`, `ip address add ${ip}/${mask} dev ${name}`, () => {
      tap.setAddress(parsed('ip', ip, parseIpv4), parsed('mask', mask, parseIpv4));
    });
  }
  change(name, `tap=${name}`, `ip link set ${name} up`, () => {
    tap.bringUp();
  });
  return tap.mtu;
}

function change(name: string, option: string, command: string, act: () => void): void {
  try {
    act();
  } catch (error) {
    if (!(error instanceof SysError)) throw error;
    if (error.errno === EPERM) {
      throw problem(
        `${option}: this user may not change ${name}`,
        `do it beforehand as root: ${command}; or give tsvmm CAP_NET_ADMIN`,
        error,
      );
    }
    throw problem(`${option} is refused by the kernel: ${error.message}`, 'give what the interface can have', error);
  }
}

/** What the configuration allows, as a mask of TUN_F_…. Segmentation needs checksums. */
function wantedOffloads({ offload_csum = true, offload_tso = true, offload_ufo = true }: NetConfig): number {
  let mask = ALL_OFFLOADS;
  if (!offload_csum) mask &= ~TUN_F_CSUM;
  if (!offload_tso) mask &= ~(TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN);
  if (!offload_ufo) mask &= ~TUN_F_UFO;
  return consistent(mask);
}

/** What of `wanted` this kernel's taps do; none of it is asked for until a driver says that it can take it. */
function supported({ queues }: OpenTap, wanted: number): number {
  // Kernels differ in UFO alone.
  const candidates = [wanted, wanted & ~TUN_F_UFO, wanted & TUN_F_CSUM];
  const found = candidates.find((mask) => trySetOffload(queues[0], mask) === 0) ?? 0;
  trySetOffload(queues[0], 0);
  return found;
}
