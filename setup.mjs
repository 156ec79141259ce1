// Makes a fresh clone ready: installs the dependencies and compiles, each only when needed. Every npm script calls it
// first, so `npm start` is the only command that anybody has to know. Plain Node, no dependencies: it runs before there
// are any. When nothing is to be done it must not be felt, so it loads nothing that it does not need.
//
//   node setup.mjs                 install and compile what is out of date
//   node setup.mjs --force-build   compile even so (npm run build, npm pack)

import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const OLDEST_NODE = 20;
/** The folders that hold what is compiled. */
const SOURCE_FOLDERS = ['src', 'test', 'bench', 'examples'];
/** What tsc compiles, each with its own idea of the world: Node, and a browser. */
const PROJECTS = ['tsconfig.json', join('examples', 'web', 'client', 'tsconfig.json')];
const COMPILED_EXTENSIONS = ['.js', '.js.map', '.d.ts'];

const root = dirname(fileURLToPath(import.meta.url));
const inRoot = (...parts) => join(root, ...parts);
const lockFile = inRoot('package-lock.json');
/** A copy of the lock file that node_modules was installed from; inside, so that it goes when node_modules goes. */
const installStamp = inRoot('node_modules', '.tsvmm-installed-lock.json');
const buildStamp = inRoot('dist', '.setup-stamp');
const lockFolder = inRoot('dist', '.setup-lock');
const forceBuild = process.argv.includes('--force-build');

/** A reason to stop that the user can do something about: shown without a stack. */
class SetupError extends Error {}

try {
  await main();
} catch (error) {
  if (!(error instanceof SetupError)) throw error;
  say(error.message);
  process.exitCode = 1;
}

async function main() {
  // In an installed package there is nothing to build, and its dependencies are npm's business.
  if (!existsSync(inRoot('src'))) return;
  checkMachine();
  if (isInstalled() && !forceBuild && isBuilt()) return;
  const release = await takeLock();
  try {
    // Asked again: whoever held the lock may have done the work.
    if (!isInstalled()) await install();
    if (forceBuild || !isBuilt()) await build();
  } finally {
    release();
  }
}

function checkMachine() {
  const major = Number(process.versions.node.split('.')[0]);
  if (major < OLDEST_NODE) {
    throw new SetupError(
      `Node ${OLDEST_NODE} or newer is needed, and this is ${process.version}. Install a newer one.`,
    );
  }
  if (process.platform !== 'linux' || process.arch !== 'x64') {
    throw new SetupError(
      `tsvmm runs on Linux on x86-64 (it drives /dev/kvm), and this is ${process.platform} on ${process.arch}.`,
    );
  }
}

// Installing -------------------------------------------------------------------------------------------------------

function isInstalled() {
  const wanted = readFileSync(lockFile);
  if (readOrNothing(installStamp)?.equals(wanted)) return true;
  // Somebody ran npm by hand, or the lock file changed in nothing that is installed here: npm's own record tells.
  const record = readOrNothing(inRoot('node_modules', '.package-lock.json'));
  if (record === undefined || !sameVersions(JSON.parse(wanted.toString()), JSON.parse(record.toString()))) return false;
  writeFileSync(installStamp, wanted);
  return true;
}

function sameVersions({ packages: wanted }, { packages: installed }) {
  const version = (entry) => entry?.integrity ?? entry?.version;
  const missing = Object.entries(wanted).some(
    ([path, entry]) => path !== '' && !entry.optional && version(installed[path]) !== version(entry),
  );
  return !missing && Object.entries(installed).every(([path, entry]) => version(wanted[path]) === version(entry));
}

async function install() {
  const started = performance.now();
  say('installing dependencies (npm ci) ...');
  // What npm has to say matters only when it fails.
  const { status, output } = await run('npm', ['ci', '--no-audit', '--no-fund', '--loglevel=error']);
  if (status !== 0) {
    throw new SetupError(`${output}\nnpm ci failed (status ${status}). Is the package registry reachable?`);
  }
  writeFileSync(installStamp, readFileSync(lockFile));
  say(`installed dependencies in ${seconds(started)}`);
}

// Building ---------------------------------------------------------------------------------------------------------

function isBuilt() {
  const stamp = readOrNothing(buildStamp);
  if (stamp === undefined) return false;
  const sources = listSources();
  return stamp.toString() === fingerprint(sources) && sources.every(hasOutput);
}

/** Every file that the build depends on, with what changes when it changes. */
function listSources() {
  const found = [];
  const walk = (folder) => {
    for (const entry of readdirSync(inRoot(folder), { withFileTypes: true })) {
      const path = join(folder, entry.name);
      if (entry.isDirectory()) walk(path);
      else if (entry.name.endsWith('.ts')) found.push({ path, stats: statSync(inRoot(path)) });
    }
  };
  for (const folder of SOURCE_FOLDERS) if (existsSync(inRoot(folder))) walk(folder);
  return found;
}

/** Times as well as names and sizes, for a checkout of an older commit brings older files. */
function fingerprint(sources) {
  const lines = sources.map(({ path, stats }) => `${path} ${stats.size} ${stats.mtimeMs}`).sort();
  return [
    `node ${process.version}`,
    ...PROJECTS.map((project) => readFileSync(inRoot(project))),
    `installed ${statSync(installStamp).mtimeMs}`,
    ...lines,
  ].join('\n');
}

/** Whether `source` has been compiled at all. Declarations by hand (.d.ts) have no output. */
function hasOutput({ path }) {
  return path.endsWith('.d.ts') || existsSync(inRoot('dist', path.replace(/\.ts$/, '.js')));
}

async function build() {
  const started = performance.now();
  say('compiling (tsc) ...');
  // Taken before compiling: a file that is saved meanwhile is then newer than the build.
  const sources = listSources();
  const stamp = fingerprint(sources);
  rmSync(buildStamp, { force: true });
  removeStaleOutput();
  // tsc's incremental records do not notice that outputs are gone.
  if (forceBuild || !sources.every(hasOutput)) {
    for (const name of existsSync(inRoot('dist')) ? readdirSync(inRoot('dist')) : []) {
      if (name.startsWith('.tsbuildinfo')) rmSync(inRoot('dist', name));
    }
  }
  for (const project of PROJECTS) {
    const tsc = inRoot('node_modules', 'typescript', 'bin', 'tsc');
    const { status, output } = await run(process.execPath, [tsc, '-p', inRoot(project)]);
    if (status !== 0) throw new SetupError(`${output}\ncompiling failed`);
  }
  for (const name of ['main.js', 'remote.js']) {
    const command = inRoot('dist', 'src', 'cli', name);
    if (existsSync(command)) chmodSync(command, 0o755);
  }
  writeFileSync(buildStamp, stamp);
  say(`compiled ${sources.length} files in ${seconds(started)}`);
}

/** Output whose source is gone would still be found by imports, by jest and by npm pack. */
function removeStaleOutput() {
  const walk = (folder) => {
    for (const entry of readdirSync(inRoot('dist', folder), { withFileTypes: true })) {
      const path = join(folder, entry.name);
      if (entry.isDirectory()) walk(path);
      else {
        const extension = COMPILED_EXTENSIONS.find((each) => entry.name.endsWith(each));
        if (extension === undefined) continue;
        const source = inRoot(`${path.slice(0, -extension.length)}.ts`);
        if (!existsSync(source)) rmSync(inRoot('dist', path), { force: true });
      }
    }
    if (readdirSync(inRoot('dist', folder)).length === 0) rmSync(inRoot('dist', folder), { recursive: true });
  };
  for (const entry of existsSync(inRoot('dist')) ? readdirSync(inRoot('dist'), { withFileTypes: true }) : []) {
    if (entry.isDirectory() && !entry.name.startsWith('.')) walk(entry.name);
  }
}

// One at a time ----------------------------------------------------------------------------------------------------

/** Waits until no other set-up runs in this checkout; returns how to let go. */
async function takeLock() {
  mkdirSync(dirname(lockFolder), { recursive: true });
  const ownerFile = join(lockFolder, 'pid');
  let told = false;
  for (;;) {
    try {
      mkdirSync(lockFolder);
      writeFileSync(ownerFile, String(process.pid));
      const release = () => rmSync(lockFolder, { recursive: true, force: true });
      process.once('exit', release);
      return release;
    } catch (error) {
      if (error.code !== 'EEXIST') throw error;
    }
    const owner = Number(readOrNothing(ownerFile)?.toString() ?? 0);
    if (isAbandoned(owner)) {
      // Renamed first: of several that see it abandoned, one gets to remove it.
      const grave = `${lockFolder}-${process.pid}`;
      try {
        renameSync(lockFolder, grave);
        rmSync(grave, { recursive: true, force: true });
      } catch (error) {
        if (error.code !== 'ENOENT') throw error;
      }
      continue;
    }
    if (!told) say(`waiting for another set-up of this checkout (process ${owner || 'unknown'}) ...`);
    told = true;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

function isAbandoned(owner) {
  if (owner === 0) {
    // Made this moment, the owner not written yet; or its maker died between the two.
    const made = statSync(lockFolder, { throwIfNoEntry: false })?.mtimeMs;
    return made !== undefined && Date.now() - made > 2000;
  }
  try {
    process.kill(owner, 0);
    return false;
  } catch (error) {
    return error.code === 'ESRCH';
  }
}

// Small things -----------------------------------------------------------------------------------------------------

async function run(command, args) {
  const { spawn } = await import('node:child_process');
  const child = spawn(command, args, { cwd: root, stdio: ['ignore', 'pipe', 'pipe'] });
  const chunks = [];
  child.stdout.on('data', (chunk) => chunks.push(chunk));
  child.stderr.on('data', (chunk) => chunks.push(chunk));
  // Ctrl-C reaches the child by itself; waiting for it lets the lock go in order.
  const stop = () => child.kill();
  process.on('SIGINT', stop).on('SIGTERM', stop);
  const status = await new Promise((resolve, reject) => {
    child.on('error', (error) => reject(new SetupError(`${command} cannot be run: ${error.message}`)));
    child.on('close', (code, signal) => resolve(code ?? signal));
  });
  process.off('SIGINT', stop).off('SIGTERM', stop);
  return { status, output: Buffer.concat(chunks).toString().trimEnd() };
}

function readOrNothing(path) {
  try {
    return readFileSync(path);
  } catch (error) {
    if (error.code === 'ENOENT' || error.code === 'ENOTDIR') return undefined;
    throw error;
  }
}

/** On stderr, for stdout belongs to the program that runs next. */
function say(message) {
  process.stderr.write(`setup: ${message}\n`);
}

function seconds(started) {
  return `${((performance.now() - started) / 1000).toFixed(1)} s`;
}
