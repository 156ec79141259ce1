// Telling the main thread of connections: one message under way, and a bound for what waits.

import { expect, test } from '@jest/globals';
import type { ConnectionInfo } from '../../src/vsock/connection-info.js';
import { CHANGES_LIMIT, ConnectionReporter } from '../../src/vsock/in-process/connection-reporter.js';
import type { WorkerMessage } from '../../src/vsock/in-process/messages.js';

const connection = (guestPort: number): ConnectionInfo => ({
  type: 'stream',
  guestPort,
  peerCid: 2,
  peerPort: 1024,
  state: 'established',
  rxBytes: 0,
  txBytes: 0,
  rxCredit: 0,
  rxStalled: false,
  txWaiting: 0,
});

/** Each message as the ports that it tells of, an end as a negative one, and what it misses. */
function reporter() {
  const sent: { ports: number[]; missed: number }[] = [];
  const made = new ConnectionReporter((message: WorkerMessage) => {
    if (message.op !== 'changes') throw new Error(message.op);
    const ports = message.changes.map(({ connection: { guestPort }, reason }) =>
      reason === undefined ? guestPort : -guestPort,
    );
    sent.push({ ports, missed: message.missed });
  });
  return { sent, reporter: made };
}

test('the first change is sent at once, the next ones together when the main thread has heard of it', () => {
  const { sent, reporter: each } = reporter();
  each.opened(connection(1));
  each.opened(connection(2));
  each.ended(connection(1), 'finished');
  expect(sent).toEqual([{ ports: [1], missed: 0 }]);
  each.heard();
  expect(sent.slice(1)).toEqual([{ ports: [2, -1], missed: 0 }]);
  each.heard();
  expect(sent).toHaveLength(2);
  each.ended(connection(2), 'reset');
  expect(sent[2]).toEqual({ ports: [-2], missed: 0 });
});

test('what is too much for a message is counted', () => {
  const { sent, reporter: each } = reporter();
  for (let port = 0; port < CHANGES_LIMIT + 11; port++) each.opened(connection(port));
  each.heard();
  each.heard();
  each.opened(connection(1));
  expect(sent.map(({ ports, missed }) => [ports.length, missed])).toEqual([
    [1, 0],
    [CHANGES_LIMIT, 10],
    [1, 0],
  ]);
});
