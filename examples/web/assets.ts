// The files of the page. Main thread. What the browser gets is a fixed list; no path of a request ever becomes one of the host.
//
// HTML, style and icon lie beside the sources; the script is compiled beside this file.

import { readFile } from 'node:fs/promises';

export interface Asset {
  readonly type: string;
  readonly bytes: Buffer;
}

const HTML = 'text/html; charset=utf-8';
const CSS = 'text/css; charset=utf-8';
const SCRIPT = 'text/javascript; charset=utf-8';
const SVG = 'image/svg+xml';

/** From dist/examples/web, where this runs, back to the sources. */
const SOURCES = new URL('../../../examples/web/public/', import.meta.url);

const ASSETS: Readonly<Record<string, readonly [type: string, file: URL]>> = {
  '/': [HTML, new URL('index.html', SOURCES)],
  '/style.css': [CSS, new URL('style.css', SOURCES)],
  '/icon.svg': [SVG, new URL('icon.svg', SOURCES)],
  ...Object.fromEntries(
    [
      'client/main.js',
      'client/console-view.js',
      'client/format.js',
      'client/plot.js',
      'client/screen.js',
      'messages.js',
    ].map((path) => [`/${path}`, [SCRIPT, new URL(path, import.meta.url)] as const]),
  ),
};

/** What there is at `path`; undefined: nothing. Rejects when the file is missing. */
export async function readAsset(path: string): Promise<Asset | undefined> {
  if (!Object.hasOwn(ASSETS, path)) return undefined;
  const [type, file] = ASSETS[path];
  return { type, bytes: await readFile(file) };
}
