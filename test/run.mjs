// Runs the tests, group by group, and says at the very end how many passed and failed in all.
//
//   npm test                       everything
//   npm test -- unit kvm           these groups
//   npm test -- vsock              test files with this in their path, of every group
//   npm test -- -t 'name'          tests with this in their name (and any other option of jest)
//
// The groups: unit needs no KVM; kvm runs the built-in guest; linux boots the Linux guest. Without a usable /dev/kvm the
// last two are skipped, or failed where nothing may be skipped: with CI=true or TSVMM_REQUIRE_ALL=1.

import { spawn, spawnSync } from 'node:child_process';
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { GROUPS } from '../jest.config.js';

/** How long jest may take to exit after its last test; whatever still holds it then is a bug of ours. */
const EXIT_LIMIT_MS = 10_000;
/** How long no test may end. Jest's own limit does not help against a test that blocks its thread. */
const STALL_LIMIT_MS = { unit: 2 * 60_000, kvm: 5 * 60_000, linux: 20 * 60_000 };

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const args = process.argv.slice(2);
const chosen = args.filter((arg) => Object.hasOwn(GROUPS, arg));
// Tests are named by their source as well as by what is compiled from it.
const jestArgs = args.filter((arg) => !Object.hasOwn(GROUPS, arg)).map((arg) => arg.replace(/\.test\.ts$/, '.test.js'));
const requireAll = process.env.CI === 'true' || process.env.TSVMM_REQUIRE_ALL === '1';

const total = { passed: 0, failed: 0, skipped: 0 };
let broken = false;
let interrupted = false;
const scratch = mkdtempSync(join(tmpdir(), 'tsvmm-test-'));
try {
  for (const group of chosen.length > 0 ? chosen : Object.keys(GROUPS)) {
    if (interrupted) break;
    const problem = obstacle(group);
    if (problem === undefined) await runGroup(group);
    else if (requireAll) {
      process.stdout.write(`\n${group}: FAILED, for everything has to run here and ${problem}\n`);
      total.failed++;
    } else process.stdout.write(`\n${group}: skipped, for ${problem}\n`);
  }
} finally {
  rmSync(scratch, { recursive: true, force: true });
}
if (total.passed + total.failed === 0) {
  process.stdout.write('\nno test ran\n');
  broken = true;
}
// Names chosen on the command line leave tests out; nothing else may, where everything has to run.
if (requireAll && jestArgs.length === 0 && total.skipped > 0) {
  process.stdout.write(`\nFAILED, for ${total.skipped} tests were skipped where nothing may be\n`);
  broken = true;
}
process.exitCode = broken || interrupted || total.failed > 0 ? 1 : 0;
const skipped = total.skipped > 0 ? `, ${total.skipped} skipped` : '';
process.stdout.write(`\n${total.passed} passed, ${total.failed} failed${skipped}\n`);

/** What keeps a group from running here, if anything does. Builds the Linux test guest when its group is to run. */
function obstacle(group) {
  if (group === 'unit') return undefined;
  const kvm = kvmProblem();
  if (kvm !== undefined || group !== 'linux') return kvm;
  // Its progress goes to our stderr: minutes the first time, nothing from then on.
  const build = spawnSync(join(root, 'test', 'guest', 'build.sh'), { stdio: ['ignore', 'pipe', 'inherit'] });
  if (build.status !== 0) return 'the Linux test guest could not be built (see above)';
  for (const line of build.stdout.toString().trim().split('\n')) {
    const [name, path] = line.split('=');
    process.env[`TSVMM_TEST_${name.toUpperCase()}`] = path;
  }
  return undefined;
}

/** Runs one group in a jest of its own: unit tests side by side, those with virtual machines one after the other. */
async function runGroup(group) {
  const progressFile = join(scratch, `${group}.json`);
  const workers = group === 'unit' ? ['--maxWorkers=2'] : ['--runInBand'];
  process.stdout.write(`\n${group} tests\n`);
  const jest = [join(root, 'node_modules', 'jest', 'bin', 'jest.js'), ...workers, '--passWithNoTests', ...jestArgs];
  const child = spawn(process.execPath, ['--experimental-vm-modules', '--no-warnings=ExperimentalWarning', ...jest], {
    cwd: root,
    env: { ...process.env, TSVMM_TEST_GROUP: group, TSVMM_TEST_PROGRESS: progressFile, TSVMM_TEST_SCRATCH: scratch },
    stdio: ['ignore', 'inherit', 'inherit'],
    // A process group of its own: jest's workers do not end with it when they hang.
    detached: true,
  });
  const unwatch = watch(child, progressFile, STALL_LIMIT_MS[group]);
  const status = await new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('exit', (code, signal) => resolve(code ?? signal));
  });
  unwatch();

  const progress = readProgress(progressFile);
  for (const key of Object.keys(total)) total[key] += progress?.counts[key] ?? 0;
  if (status === 0) return;
  broken = true;
  // Jest failed for another reason than a test: it could not start, was ended, or did not end.
  if (typeof status !== 'number' || (progress?.counts.failed ?? 0) === 0) total.failed++;
}

/** Passes signals on, and ends what hangs: that is to be a failure, not a run that never ends. */
function watch(child, progressFile, stallLimit) {
  const signalAll = (signal) => {
    try {
      process.kill(-child.pid, signal);
    } catch (error) {
      // All of them have ended already.
      if (error.code !== 'ESRCH') throw error;
    }
  };
  const interrupt = (signal) => {
    interrupted = true;
    signalAll(signal);
  };
  process.on('SIGINT', interrupt).on('SIGTERM', interrupt);
  const started = Date.now();
  const timer = setInterval(() => {
    const { at, running, done } = readProgress(progressFile) ?? { at: started, running: [], done: false };
    if (Date.now() - at < (done ? EXIT_LIMIT_MS : stallLimit)) return;
    const complaint = done
      ? 'jest does not exit: a test left something open (npm test -- --detectOpenHandles)'
      : `no test has ended for ${stallLimit / 1000} s; running: ${running.join(', ') || 'none yet'}`;
    process.stdout.write(`\n${complaint}\n`);
    clearInterval(timer);
    signalAll('SIGKILL');
  }, 500);
  return () => {
    clearInterval(timer);
    process.off('SIGINT', interrupt).off('SIGTERM', interrupt);
  };
}

function readProgress(file) {
  try {
    return JSON.parse(readFileSync(file, 'utf8'));
  } catch (error) {
    if (error.code === 'ENOENT') return undefined;
    throw error;
  }
}

/** Why KVM cannot be used here; undefined when it can. */
function kvmProblem() {
  try {
    closeSync(openSync('/dev/kvm', 'r+'));
    return undefined;
  } catch (error) {
    return error.code === 'ENOENT' ? 'there is no /dev/kvm' : `/dev/kvm cannot be opened (${error.code})`;
  }
}
