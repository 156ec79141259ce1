// Makes the vsock device in its I/O worker.

import { receiveMessageOnPort } from 'node:worker_threads';
import type { DeviceContext, VirtioDevice } from '../devices/virtio/device.js';
import { VsockDevice } from '../vsock/device.js';
import type { HostMessage } from '../vsock/in-process/messages.js';
import { StreamHub } from '../vsock/in-process/stream-hub.js';
import type { VsockSettings } from './vsock-settings.js';

export function makeVsockDevice(settings: VsockSettings, context: DeviceContext): VirtioDevice {
  const { loop, log, updateConfig } = context;
  const { inProcess, peers } = settings;
  const { port } = inProcess;
  const hub = new StreamHub({
    loop,
    shared: inProcess,
    peers,
    receive: () => (receiveMessageOnPort(port) as { message: HostMessage } | undefined)?.message,
    send: (message) => {
      port.postMessage(message);
    },
  });
  return new VsockDevice({
    ...settings,
    inProcess: hub,
    loop,
    log,
    writeConfig: (config) => {
      updateConfig(0, config);
    },
  });
}
