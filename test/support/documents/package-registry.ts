// A package registry for `npm install` without the network: it has the packages that a checkout has installed, as they are
// there.

import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';

interface LockFile {
  readonly packages: Readonly<Record<string, { readonly version?: string }>>;
}

/** Folders of a package by its version. */
type Versions = Map<string, string>;

export class PackageRegistry {
  readonly url: string;
  private readonly server: Server;

  private constructor(server: Server) {
    this.server = server;
    this.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  }

  /** Of what is installed in `checkout`. */
  static async start(checkout: string): Promise<PackageRegistry> {
    const packages = installedPackages(checkout);
    const server = createServer(({ url = '/', headers: { host = '' } }, response) => {
      const path = decodeURIComponent(url.slice(1)).split('/-/');
      const version = path.at(1);
      const versions = packages.get(path[0]);
      const folder = version === undefined ? undefined : versions?.get(version);
      if (versions !== undefined && version === undefined) {
        response.setHeader('content-type', 'application/json').end(JSON.stringify(describe(path[0], versions, host)));
      } else if (folder !== undefined) response.end(archive(folder));
      else response.writeHead(404).end('{}');
    });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    return new PackageRegistry(server);
  }

  async close(): Promise<void> {
    const closed = once(this.server, 'close');
    this.server.close();
    this.server.closeAllConnections();
    await closed;
  }
}

function installedPackages(checkout: string): Map<string, Versions> {
  const { packages } = JSON.parse(readFileSync(join(checkout, 'package-lock.json'), 'utf8')) as LockFile;
  const found = new Map<string, Versions>();
  for (const [path, { version }] of Object.entries(packages)) {
    const name = path.split('node_modules/').at(-1) ?? '';
    const folder = join(checkout, path);
    // What is for other machines is in the lock file and not installed.
    if (path === '' || version === undefined || !existsSync(join(folder, 'package.json'))) continue;
    const versions: Versions = found.get(name) ?? new Map<string, string>();
    found.set(name, versions.set(version, folder));
  }
  return found;
}

/** What a registry says about a package. */
function describe(name: string, versions: Versions, host: string): object {
  const entries = [...versions].map(([version, folder]) => {
    const manifest = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')) as object;
    const tarball = `http://${host}/${encodeURIComponent(name)}/-/${version}`;
    return [version, { ...manifest, dist: { tarball } }] as const;
  });
  const latest = entries.map(([version]) => version).at(-1);
  return { name, 'dist-tags': { latest }, versions: Object.fromEntries(entries) };
}

/** What is below its own node_modules is another package's. */
function archive(folder: string): Buffer {
  const options = ['--exclude=./node_modules', '--transform=s,^\\.,package,', '-C', folder];
  return execFileSync('tar', ['-c', ...options, '.'], { maxBuffer: 2 ** 30 });
}
