// The kinds of device that an I/O worker can drive: what each needs, and where its code is.
//
// The main thread sees settings only, which are plain data; a kind's code is loaded by the worker that drives it. A new
// kind is a type in `DeviceSettings`, a case in `loadDeviceKind`, and a file in attach/ that makes its settings.

import type { DeviceContext, VirtioDevice } from '../devices/virtio/device.js';
import type { VsockSettings } from './vsock-settings.js';

/** Everything about one device that crosses to its I/O worker. */
export type DeviceSettings = VsockSettings;

export type DeviceKind = DeviceSettings['kind'];

/** Makes a device of one kind. Throws SysError. */
export type DeviceFactory<S extends DeviceSettings = DeviceSettings> = (
  settings: S,
  context: DeviceContext,
) => VirtioDevice;

/** The code of a kind, loaded when it is first asked for. */
export async function loadDeviceKind(kind: DeviceKind): Promise<DeviceFactory> {
  switch (kind) {
    case 'vsock':
      return (await import('./vsock-factory.js')).makeVsockDevice;
  }
}
