// What vsock costs: throughput, latency, many connections, set-up, CPU and memory, with the built-in guest behind the
// command as a user starts it, and a C client before its socket.
//
// The reference is a C program behind the same socket and client which does what a monitor does without a guest: it moves
// the bytes between the socket and 4 KiB buffers, 16 with each call, or one, as monitors do that read once per receive
// descriptor.

import {
  cpuSeconds,
  connectRate,
  MonitorCpu,
  ECHO,
  pingPong,
  residentMemory,
  startMonitor,
  startReference,
  transfer,
  WAKE_ECHO,
  whileConnected,
  type CpuTimes,
  type Direction,
  type RoundTrips,
  type Server,
} from './vsock-programs.js';
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { buildReference, compared, median, sleep, type Bench, type Figure } from './harness.js';

const ROUNDS = 5;
const BULK_SECONDS = 0.6;
const SCALE_ROUNDS = 3;
const SCALE_SECONDS = 0.5;
const PING_SECONDS = 0.4;
const CONNECT_SECONDS = 0.4;
const CONNECTIONS = [1, 10, 100, 1000];
const CONNECTS_AT_ONCE = 64;
const IDLE_CONNECTIONS = 5000;
const STREAM_PROGRAM = fileURLToPath(new URL('vsock-stream.js', import.meta.url));
const STREAM_SECONDS = 0.4;
const STREAM_TIMEOUT_MS = 60_000;
const GIB = 2 ** 30;
/** Between the end of a load and a look at what is left of it. */
const SETTLE_MS = 300;

const DIRECTIONS: readonly Direction[] = ['write', 'read', 'echo'];
const DIRECTION_NAMES: Readonly<Record<Direction, string>> = {
  write: 'host to guest (discard)',
  read: 'guest to host (chargen)',
  echo: 'echo',
};

interface Servers {
  readonly client: string;
  readonly monitor: Server;
  readonly cpu: MonitorCpu;
  /** 16 buffers a call. */
  readonly batched: Server;
  /** One buffer a call. */
  readonly single: Server;
}

export const vsock: Bench = {
  name: 'vsock',
  description: 'vsock throughput, latency, scale, CPU and memory, against C programs behind the same Unix socket',
  async run(work) {
    const client = buildReference(work, 'vsock-client');
    const server = buildReference(work, 'vsock-server');
    const exitCosts = buildReference(work, 'vsock-exits');
    const running: Server[] = [];
    const own = async (starting: Promise<Server>): Promise<Server> => {
      const started = await starting;
      running.push(started);
      return started;
    };
    try {
      const monitor = await own(startMonitor(client, join(work, 'monitor')));
      const batched = await own(startReference(client, join(work, 'batched'), server, 16));
      const single = await own(startReference(client, join(work, 'single'), server, 1));
      await sleep(SETTLE_MS);
      const servers: Servers = { client, monitor, batched, single, cpu: new MonitorCpu(monitor) };
      return [
        ...(await measureBulk(servers)),
        ...(await measureLatency(servers, exitCosts)),
        ...(await measureScale(servers)),
        ...(await measureConnects(servers)),
        ...measureStreams(join(work, 'streams')),
        ...(await measureIdle(servers, await own(startMonitor(client, join(work, 'idle'))))),
      ];
    } finally {
      await Promise.all(running.map((each) => each.stop()));
    }
  },
};

interface BulkRound {
  readonly ours: number;
  readonly batched: number;
  readonly single: number;
  /** CPU seconds per GiB. */
  readonly cpu: CpuTimes;
  readonly batchedCpu: number;
}

async function measureBulk(servers: Servers): Promise<Figure[]> {
  const rounds: Record<Direction, BulkRound[]> = { write: [], read: [], echo: [] };
  for (let round = 0; round < ROUNDS; round++) {
    for (const direction of DIRECTIONS) rounds[direction].push(await bulkRound(servers, direction));
  }
  const of = (direction: Direction, pick: (round: BulkRound) => number): number =>
    median(rounds[direction].map(pick)) / GIB;
  const cpuOf = (direction: Direction, pick: (round: BulkRound) => number): number =>
    median(rounds[direction].map(pick));
  return [
    ...DIRECTIONS.flatMap((direction) => [
      compared(
        `${DIRECTION_NAMES[direction]}, against 16 buffers a call`,
        'GiB/s',
        of(direction, (round) => round.ours),
        of(direction, (round) => round.batched),
      ),
      compared(
        `${DIRECTION_NAMES[direction]}, against one buffer a call`,
        'GiB/s',
        of(direction, (round) => round.ours),
        of(direction, (round) => round.single),
      ),
    ]),
    ...DIRECTIONS.flatMap((direction): Figure[] => [
      compared(
        `CPU, ${DIRECTION_NAMES[direction]}`,
        's/GiB',
        cpuOf(direction, ({ cpu }) => cpu.io + cpu.vcpu + cpu.main + cpu.other),
        cpuOf(direction, ({ batchedCpu }) => batchedCpu),
      ),
      { name: '  I/O worker', unit: 's/GiB', value: cpuOf(direction, ({ cpu }) => cpu.io) },
      { name: '  vCPU', unit: 's/GiB', value: cpuOf(direction, ({ cpu }) => cpu.vcpu) },
      { name: '  main thread', unit: 's/GiB', value: cpuOf(direction, ({ cpu }) => cpu.main) },
      { name: '  other threads of Node', unit: 's/GiB', value: cpuOf(direction, ({ cpu }) => cpu.other) },
    ]),
  ];
}

async function bulkRound({ client, monitor, batched, single, cpu }: Servers, direction: Direction): Promise<BulkRound> {
  const before = cpu.now();
  const ours = await transfer(client, monitor, direction, BULK_SECONDS, 1);
  const after = cpu.now();
  const batchedBefore = cpuSeconds(batched);
  const theirs = await transfer(client, batched, direction, BULK_SECONDS, 1);
  const batchedCpu = ((cpuSeconds(batched) - batchedBefore) / theirs.bytes) * GIB;
  const alone = await transfer(client, single, direction, BULK_SECONDS, 1);
  const share = (role: keyof CpuTimes): number => ((after[role] - before[role]) / ours.bytes) * GIB;
  return {
    ours: ours.bytesPerSecond,
    batched: theirs.bytesPerSecond,
    single: alone.bytesPerSecond,
    cpu: { io: share('io'), vcpu: share('vcpu'), main: share('main'), other: share('other') },
    batchedCpu,
  };
}

async function measureLatency({ client, monitor, batched }: Servers, exitCosts: string): Promise<Figure[]> {
  const ours: RoundTrips[] = [];
  const theirs: RoundTrips[] = [];
  const exits: number[][] = [];
  for (let round = 0; round < ROUNDS; round++) {
    ours.push(await pingPong(client, monitor, ECHO, PING_SECONDS));
    theirs.push(await pingPong(client, batched, WAKE_ECHO, PING_SECONDS));
    exits.push(execFileSync(exitCosts, { encoding: 'utf8' }).trim().split(' ').map(Number));
  }
  const cost = (name: string, index: number): Figure => ({
    name: `  here, in C: ${name}`,
    unit: 'us',
    value: median(exits.map((values) => values[index])),
  });
  return [
    compared('1-byte round trip, median', 'us', median(ours.map((t) => t.median)), median(theirs.map((t) => t.median))),
    compared('1-byte round trip, p99', 'us', median(ours.map((t) => t.p99)), median(theirs.map((t) => t.p99))),
    cost('port exit from CPL 0 and back', 0),
    cost('MMIO exit from CPL 3 and back', 1),
    cost('ioeventfd write from CPL 0', 2),
    cost('ioeventfd write from CPL 3', 3),
    cost('irqfd to a halted guest and ioeventfd back', 4),
  ];
}

async function measureScale({ client, monitor, batched }: Servers): Promise<Figure[]> {
  const figures: Figure[] = [];
  for (const direction of ['write', 'read'] as const) {
    const ours = CONNECTIONS.map((): number[] => []);
    const theirs = CONNECTIONS.map((): number[] => []);
    for (let round = 0; round < SCALE_ROUNDS; round++) {
      for (const [index, connections] of CONNECTIONS.entries()) {
        ours[index].push((await transfer(client, monitor, direction, SCALE_SECONDS, connections)).bytesPerSecond);
        theirs[index].push((await transfer(client, batched, direction, SCALE_SECONDS, connections)).bytesPerSecond);
      }
    }
    for (const [index, connections] of CONNECTIONS.entries()) {
      const name = `${DIRECTION_NAMES[direction]}, ${connections} at once`;
      const value = median(ours[index]) / GIB;
      if (index > 0) figures.push(compared(`${name}, against one`, 'GiB/s', value, median(ours[0]) / GIB));
      figures.push(compared(`${name}, against C`, 'GiB/s', value, median(theirs[index]) / GIB));
    }
  }
  return figures;
}

async function measureConnects({ client, monitor, batched }: Servers): Promise<Figure[]> {
  const figures: Figure[] = [];
  for (const atOnce of [1, CONNECTS_AT_ONCE]) {
    const ours: number[] = [];
    const theirs: number[] = [];
    for (let round = 0; round < SCALE_ROUNDS; round++) {
      ours.push(await connectRate(client, monitor, CONNECT_SECONDS, atOnce));
      theirs.push(await connectRate(client, batched, CONNECT_SECONDS, atOnce));
    }
    figures.push(compared(`connections set up, ${atOnce} at a time`, 'per s', median(ours), median(theirs)));
  }
  return figures;
}

/** `vm.vsock.connect` against node:net on the Unix socket, by the same code in the process that runs the VM. */
function measureStreams(socket: string): Figure[] {
  const args = [STREAM_PROGRAM, socket, String(STREAM_SECONDS), String(SCALE_ROUNDS)];
  const text = execFileSync(process.execPath, args, { encoding: 'utf8', timeout: STREAM_TIMEOUT_MS });
  const [write, socketWrite, read, socketRead, ping, socketPing] = text.trim().split(' ').map(Number);
  return [
    compared('Node stream to guest, in-process against socket', 'GiB/s', write / GIB, socketWrite / GIB),
    compared('Node stream from guest, in-process against socket', 'GiB/s', read / GIB, socketRead / GIB),
    compared('Node stream 1-byte round trip, in-process against socket', 'us', ping, socketPing),
  ];
}

/** `monitor` is a fresh one: a heap that a load has left behind has room for connections. */
async function measureIdle({ client }: Servers, monitor: Server): Promise<Figure[]> {
  await sleep(SETTLE_MS);
  const before = residentMemory(monitor);
  const { own, shared } = await whileConnected(client, monitor, IDLE_CONNECTIONS, async () => {
    await sleep(SETTLE_MS);
    return residentMemory(monitor);
  });
  return [
    { name: 'memory of an idle connection', unit: 'bytes', value: (own - before.own) / IDLE_CONNECTIONS },
    { name: '  in the guest', unit: 'bytes', value: (shared - before.shared) / IDLE_CONNECTIONS },
  ];
}
