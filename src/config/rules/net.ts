// Rules for network cards. Whether a tap may be opened is found out when it is.

import { isIPv4 } from 'node:net';
import { showValue } from '../config-error.js';
import type { NetConfig } from '../vm-config.js';
import { checkQueueSize } from './disks.js';
import { checkCount } from './numbers.js';
import { checkRateLimiter } from './rate-limit.js';
import type { Complain } from './rule.js';

/** IFNAMSIZ of Linux, less its NUL. */
const MAX_TAP_NAME_BYTES = 15;
/** virtio 1.2, 5.1.4: the MTU of the configuration space; IPv4 needs the least (RFC 791). */
const MTU_RANGE = { min: 68, max: 65_535, unit: 'bytes' };
/** MAX_TAP_QUEUES of Linux is 256; a vCPU can use one pair. */
const MAX_NUM_QUEUES = 16;

export function checkNet(net: readonly NetConfig[], complain: Complain): void {
  net.forEach((card, index) => {
    const field = `net[${index}]`;
    const { tap, mac, host_mac, mtu, num_queues, rate_limiter_config } = card;
    if (tap !== undefined) checkTapName(complain, `${field}.tap`, tap);
    checkAddress(complain, field, card);
    if (mac !== undefined) checkMac(complain, `${field}.mac`, mac);
    if (host_mac !== undefined) checkMac(complain, `${field}.host_mac`, host_mac);
    if (mac !== undefined && mac.toLowerCase() === host_mac?.toLowerCase()) {
      complain(`${field}.host_mac`, host_mac, {
        code: 'CONFLICT',
        problem: `${host_mac} is the address of the guest as well`,
        mend: 'Give the two ends of the tap different addresses.',
      });
    }
    if (mtu !== undefined) checkCount(complain, `${field}.mtu`, mtu, MTU_RANGE);
    if (num_queues !== undefined) checkNumQueues(complain, `${field}.num_queues`, num_queues);
    checkQueueSize(complain, `${field}.queue_size`, card.queue_size);
    if (rate_limiter_config !== undefined) {
      checkRateLimiter(complain, `${field}.rate_limiter_config`, rate_limiter_config, 'frames');
    }
  });
  checkDistinct(net, complain);
}

/** What Linux takes as the name of an interface (dev_valid_name), less its patterns: `tap%d`. */
function checkTapName(complain: Complain, field: string, tap: string): void {
  const length = Buffer.byteLength(tap);
  if (length === 0) {
    complain(field, tap, {
      code: 'MISSING_VALUE',
      problem: 'the name of the tap is empty',
      mend: 'Name it, or leave tap out.',
    });
  }
  if (length > MAX_TAP_NAME_BYTES) {
    complain(field, tap, {
      code: 'TOO_LONG',
      problem: `${showValue(tap)} has ${length} bytes, and the name of an interface has at most ${MAX_TAP_NAME_BYTES}`,
      mend: 'Use a shorter name.',
    });
  }
  if (tap === '.' || tap === '..' || /[\s/:%\0]/.test(tap)) {
    complain(field, tap, {
      code: 'WRONG_TYPE',
      problem: `${showValue(tap)} is not the name of an interface`,
      mend: 'Use letters, digits, dashes and dots, like tap0.',
    });
  }
}

function checkAddress(complain: Complain, field: string, { ip, mask }: NetConfig): void {
  if (ip !== undefined && !isIPv4(ip)) {
    complain(`${field}.ip`, ip, {
      code: 'WRONG_TYPE',
      problem: `${showValue(ip)} is not an IPv4 address`,
      mend: ip.includes('/')
        ? `Write ${ip.slice(0, ip.indexOf('/'))}, and the network in mask.`
        : 'Write it like 192.168.249.1.',
    });
  }
  if (mask === undefined) return;
  if (ip === undefined) {
    complain(`${field}.mask`, mask, {
      code: 'CONFLICT',
      problem: 'a mask belongs to an address, and the tap gets none',
      mend: 'Give ip as well, or leave mask out.',
    });
  }
  if (!isIPv4(mask) || !isContiguous(bitsOf(mask))) {
    complain(`${field}.mask`, mask, {
      code: 'WRONG_TYPE',
      problem: isIPv4(mask) ? `${mask} is not a run of ones, then zeros` : `${showValue(mask)} is not a network mask`,
      mend: 'Write it like 255.255.255.0.',
    });
  }
}

function bitsOf(address: string): number {
  return address.split('.').reduce((bits, byte) => bits * 256 + Number(byte), 0);
}

/** Whether the 32 bits are ones, then zeros: their complement is one less than a power of two. */
function isContiguous(mask: number): boolean {
  return mask !== 0 && Number.isInteger(Math.log2(2 ** 32 - mask));
}

function checkMac(complain: Complain, field: string, mac: string): void {
  if (!/^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/i.test(mac)) {
    complain(field, mac, {
      code: 'WRONG_TYPE',
      problem: `${showValue(mac)} is not six bytes in hexadecimal with colons between them`,
      mend: 'Write it like 12:34:56:78:9a:bc.',
    });
  }
  const first = Number.parseInt(mac.slice(0, 2), 16);
  if ((first & 1) !== 0) {
    complain(field, mac, {
      code: 'OUT_OF_RANGE',
      problem: `${mac} is the address of a group: the lowest bit of its first byte is set`,
      // Locally administered, so never all zeros.
      mend: `Use for instance ${((first & 0xfe) | 2).toString(16).padStart(2, '0')}${mac.slice(2)}.`,
    });
  }
  if (/^[0:]+$/.test(mac)) {
    complain(field, mac, {
      code: 'RESERVED',
      problem: `${mac} means that there is no address`,
      mend: 'Use another, for instance 12:34:56:78:9a:bc.',
    });
  }
}

function checkNumQueues(complain: Complain, field: string, queues: number): void {
  checkCount(complain, field, queues, { min: 2, max: MAX_NUM_QUEUES, unit: 'queues' });
  if (queues % 2 !== 0) {
    complain(field, queues, {
      code: 'OUT_OF_RANGE',
      problem: `${queues} queues do not make pairs of receive and transmit`,
      mend: `Use ${queues - 1} or ${queues + 1}.`,
    });
  }
}

/** Two cards cannot have one tap, and two with one address confuse every switch between them. */
function checkDistinct(net: readonly NetConfig[], complain: Complain): void {
  for (const key of ['tap', 'mac'] as const) {
    const seen = new Set<string>();
    net.forEach((card, index) => {
      const value = key === 'mac' ? card.mac?.toLowerCase() : card.tap;
      if (value === undefined) return;
      if (seen.has(value)) {
        const problem = `two network cards have ${key} ${value}`;
        complain(`net[${index}].${key}`, card[key], { code: 'DUPLICATE', problem, mend: 'Give each its own.' });
      }
      seen.add(value);
    });
  }
}
