// A worker thread's own end of the pool: it serves one VM after the other. Runs in vCPU and I/O workers.
//
// Between two VMs nothing may be left of the first: `serve` releases its descriptors and mappings before it returns and
// keeps no reference, so views of guest memory go with the garbage. Thread-directed signals cannot come late, for a control
// block, which each VM has its own of, lets a thread be signalled only while it says that it runs.

import { parentPort, receiveMessageOnPort, workerData, type MessagePort } from 'node:worker_threads';
import { LoadingMark } from './loading-mark.js';
import { LEASE_ENDING, LEASE_FREE, type FromService, type ServiceData, type ToService } from './worker-lease.js';

export interface Service<S> {
  /** Loads code ahead; resolves in any case. */
  preload?(what: readonly string[]): Promise<unknown>;
  /** Serves one VM to its end. An error is told as `failed`, and ends the thread. */
  serve(start: S, port: MessagePort): void | Promise<void>;
}

/** For the entry of a worker thread, once its modules are there. */
export function runService<S>(name: string, service: Service<S>): void {
  const port = parentPort;
  if (port === null) throw new Error(`${name} is a worker thread entry, not a program`);
  const { lease, loading, preload } = workerData as ServiceData;
  const tell = (message: FromService): void => {
    port.postMessage(message);
  };
  let limit: NodeJS.Timeout | undefined;
  const end = (): void => {
    clearTimeout(limit);
    port.close();
  };
  const serve = async (start: S): Promise<void> => {
    try {
      await service.serve(start, port);
      // A request that came too late for the VM is not for the next one.
      while (receiveMessageOnPort(port) !== undefined);
      tell({ type: 'done' });
    } catch (error) {
      const { message, stack } = error instanceof Error ? error : new Error(String(error));
      port.postMessage({ type: 'failed', message, stack });
      end();
    }
  };
  port.on('message', (message: ToService) => {
    clearTimeout(limit);
    switch (message.type) {
      case 'start':
        void serve(message.start as S);
        return;
      case 'rest':
        if (message.limitMs === 0) return;
        limit = setTimeout(() => {
          if (Atomics.compareExchange(lease, 0, LEASE_FREE, LEASE_ENDING) === LEASE_FREE) end();
        }, message.limitMs);
        return;
      case 'end':
        end();
        return;
    }
  });
  const loaded = (): void => {
    new LoadingMark(loading).loaded();
    tell({ type: 'loaded' });
  };
  if (preload.length === 0) loaded();
  else void service.preload?.(preload).then(loaded);
}
