// The kinds of device that an I/O worker can drive: what each needs, and where its code is.
//
// The main thread sees settings only, which are plain data; a kind's code is loaded by the worker that drives it. A new
// kind is a type in `DeviceSettings`, a case in `loadDeviceKind`, and a file in attach/ that makes its settings.

import type { BalloonSettings } from '../devices/balloon/settings.js';
import type { BlockSettings } from '../devices/block/settings.js';
import type { ConsoleSettings } from '../devices/console/settings.js';
import type { NetSettings } from '../devices/net/settings.js';
import type { PmemSettings } from '../devices/pmem/settings.js';
import type { RngSettings } from '../devices/rng/settings.js';
import type { DeviceContext, VirtioDevice } from '../devices/virtio/device.js';
import type { VsockSettings } from './vsock-settings.js';

/** Everything about one device that crosses to its I/O worker. */
export type DeviceSettings =
  BalloonSettings | BlockSettings | ConsoleSettings | NetSettings | PmemSettings | RngSettings | VsockSettings;

export type DeviceKind = DeviceSettings['kind'];

/** Makes a device of one kind. Throws SysError. */
export type DeviceFactory<S extends DeviceSettings = DeviceSettings> = (
  settings: S,
  context: DeviceContext,
) => VirtioDevice;

/** The code of a kind, loaded when it is first asked for. */
export async function loadDeviceKind(kind: DeviceKind): Promise<DeviceFactory> {
  switch (kind) {
    case 'balloon': {
      const { BalloonDevice } = await import('../devices/balloon/device.js');
      return forKind(kind, (settings, context) => new BalloonDevice(settings, context));
    }
    case 'pmem': {
      const { PmemDevice } = await import('../devices/pmem/device.js');
      return forKind(kind, (settings, context) => new PmemDevice(settings, context));
    }
    case 'rng': {
      const { RngDevice } = await import('../devices/rng/device.js');
      return forKind(kind, (settings, context) => new RngDevice(settings, context));
    }
    case 'block': {
      const { BlockDevice } = await import('../devices/block/device.js');
      return forKind(kind, (settings, context) => new BlockDevice(settings, context));
    }
    case 'console': {
      const { ConsoleDevice } = await import('../devices/console/device.js');
      return forKind(kind, (settings, context) => new ConsoleDevice(settings, context));
    }
    case 'net': {
      const { NetDevice } = await import('../devices/net/device.js');
      return forKind(kind, (settings, context) => new NetDevice(settings, context));
    }
    case 'vsock':
      return forKind(kind, (await import('./vsock-factory.js')).makeVsockDevice);
  }
}

type SettingsOf<K extends DeviceKind> = Extract<DeviceSettings, { readonly kind: K }>;

/** A factory of one kind as one of any: that settings come to the factory of their kind is checked when it is called. */
function forKind<K extends DeviceKind>(kind: K, make: DeviceFactory<SettingsOf<K>>): DeviceFactory {
  return (settings, context) => {
    if (settings.kind !== kind) throw new Error(`settings of kind ${settings.kind} for a device of kind ${kind}`);
    return make(settings as SettingsOf<K>, context);
  };
}
