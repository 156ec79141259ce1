// A VM's events in the words of Cloud Hypervisor's event monitor: where it has the event, under its name.

import type { VmEvent } from '../vmm/vm.js';
import type { Properties } from './event-monitor.js';

/** An event as it is written. */
export interface Told {
  readonly source: string;
  readonly event: string;
  readonly properties: Properties | null;
}

export function tellEvent(event: VmEvent): Told {
  switch (event.type) {
    // As Cloud Hypervisor's pvpanic has them: one event, which says what happened.
    case 'panicked':
      return { source: 'guest', event: 'panic', properties: { event: 'panic' } };
    case 'crash-loaded':
      return { source: 'guest', event: 'panic', properties: { event: 'crash_loaded' } };
    case 'watchdog-expired':
      return { source: 'watchdog', event: 'expired', properties: null };
    case 'snapshotting':
    case 'snapshotted':
    case 'restoring':
    case 'restored':
      return { source: 'vm', event: event.type, properties: { directory: event.directory } };
    case 'shutdown':
      return { source: 'vm', event: event.type, properties: shutdownProperties(event.exit) };
    case 'vsock-connected':
      return { source: 'vsock', event: 'connected', properties: connectionProperties(event.connection) };
    case 'vsock-disconnected': {
      const { connection, reason } = event;
      const { rxBytes, txBytes } = connection;
      const counted = { to_guest_bytes: String(rxBytes), from_guest_bytes: String(txBytes) };
      return {
        source: 'vsock',
        event: 'disconnected',
        properties: { ...connectionProperties(connection), reason, ...counted },
      };
    }
    case 'vsock-missed':
      return { source: 'vsock', event: 'missed', properties: { count: String(event.count) } };
    case 'booting':
    case 'booted':
    case 'reset':
    case 'rebooting':
    case 'rebooted':
    case 'pausing':
    case 'paused':
    case 'resuming':
    case 'resumed':
      return { source: 'vm', event: event.type, properties: null };
  }
}

function shutdownProperties(exit: Extract<VmEvent, { type: 'shutdown' }>['exit']): Properties {
  switch (exit.reason) {
    case 'crash':
      return { reason: exit.reason, report: exit.report };
    case 'failure':
      return { reason: exit.reason, error: exit.error.message };
    case 'shutdown':
    case 'reset':
    case 'stopped':
      return { reason: exit.reason, ...(exit.panicked === true && { panicked: 'true' }) };
  }
}

function connectionProperties(connection: Extract<VmEvent, { type: 'vsock-connected' }>['connection']): Properties {
  const { type, guestPort, peerCid, peerPort } = connection;
  return { type, guest_port: String(guestPort), peer_cid: String(peerCid), peer_port: String(peerPort) };
}
