// What a container image says of how it is to be run, kept in the image for whoever is its init: as JSON, and as a shell
// script that ends in the command.

import type { ImageConfig } from './documents.js';
import type { Attributes, Tree } from './tree.js';

/** `Entrypoint`, `Cmd`, `Env`, `WorkingDir`, `User` and `StopSignal`, as in the image's configuration. */
export const RUN_CONFIG_PATH = ['etc', 'tsvmm', 'image.json'];
/** `. /etc/tsvmm/image.sh` sets the environment and the directory and becomes the command. */
export const RUN_SCRIPT_PATH = ['etc', 'tsvmm', 'image.sh'];

/** How a container image wants to be run. */
export interface ContainerRunConfig {
  /** The program and its first arguments; empty when the command has them all. */
  readonly entrypoint: readonly string[];
  /** The arguments behind those, unless others are given. */
  readonly command: readonly string[];
  /** `NAME=VALUE` */
  readonly env: readonly string[];
  /** Empty for `/`. */
  readonly workingDir: string;
  /** `user` or `user:group`, names or numbers; empty for root. */
  readonly user: string;
}

/** Puts both files into the tree, and returns what they say. Throws ImageError. */
export function addRunConfig(tree: Tree, { config }: ImageConfig, mtime: number, file: string): ContainerRunConfig {
  const { Entrypoint, Cmd, Env, WorkingDir, User, StopSignal } = config ?? {};
  const document = {
    Entrypoint: Entrypoint ?? [],
    Cmd: Cmd ?? [],
    Env: Env ?? [],
    WorkingDir: WorkingDir ?? '',
    User: User ?? '',
    ...(typeof StopSignal === 'string' ? { StopSignal } : {}),
  };
  put(tree, RUN_CONFIG_PATH, `${JSON.stringify(document, null, 2)}\n`, { mode: 0o644, mtime }, file);
  put(tree, RUN_SCRIPT_PATH, runScript(document), { mode: 0o755, mtime }, file);
  const { Entrypoint: entrypoint, Cmd: command, Env: env, WorkingDir: workingDir, User: user } = document;
  return { entrypoint, command, env, workingDir, user };
}

function put(
  tree: Tree,
  path: readonly string[],
  text: string,
  { mode, mtime }: Pick<Attributes, 'mode' | 'mtime'>,
  file: string,
): void {
  const attributes: Attributes = { mode, uid: 0, gid: 0, mtime };
  tree.put(path, { kind: 'file', attributes, content: { kind: 'bytes', bytes: Buffer.from(text) } }, file);
}

function runScript(config: { Entrypoint: string[]; Cmd: string[]; Env: string[]; WorkingDir: string }): string {
  const { Entrypoint, Cmd, Env, WorkingDir } = config;
  const variables = Env.map((text) => /^([A-Za-z_][A-Za-z0-9_]*)=([^]*)$/.exec(text)).filter((match) => match !== null);
  const command = [...Entrypoint, ...Cmd];
  return [
    '#!/bin/sh',
    '# How the container image is run; made by tsvmm image. The user that it names is in image.json.',
    ...variables.map(([, name, value]) => `export ${name}=${shellQuoted(value)}`),
    ...(WorkingDir === '' ? [] : [`cd ${shellQuoted(WorkingDir)} || exit`]),
    command.length === 0 ? '# The image names no command.' : `exec ${command.map(shellQuoted).join(' ')}`,
    '',
  ].join('\n');
}

function shellQuoted(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`;
}
