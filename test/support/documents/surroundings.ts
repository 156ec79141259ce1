// What is around the steps of a session: its folder, and where a block asks for it a package registry, a network of its
// own, a Linux guest.

import type { LinuxGuest } from '../linux-guest.js';
import { NetNamespace } from '../net-namespace.js';
import { checkoutToClone } from './checkout.js';
import { LINUX_WORDS } from './linux-words.js';
import { PackageRegistry } from './package-registry.js';
import { PLACEHOLDER_FILES } from './placeholders.js';
import type { Place } from './process.js';
import { Scratch } from './scratch.js';
import { CHECKOUT, type Session } from './sessions.js';
import { replaced } from './step-text.js';

export class Surroundings {
  readonly scratch: Scratch;
  /** The Linux guest of `in=guest`. */
  guest: LinuxGuest | undefined;
  private network: NetNamespace | undefined;
  private registry: PackageRegistry | undefined;
  private env: NodeJS.ProcessEnv = {};

  constructor(session: Session) {
    this.scratch = new Scratch(session.group);
  }

  /** Makes all of it. What was made before a failure is released like the rest. */
  async make({ steps, group }: Session): Promise<void> {
    const { scratch } = this;
    const given = new Set<string>();
    for (const step of steps) {
      const { file } = step.directive.values;
      if (file === undefined) continue;
      const text = replaced(step);
      // A script is for a guest, whose paths stay as they are.
      scratch.write(file, step.language === 'sh' ? text : scratch.localize(text));
      given.add(file);
    }
    for (const step of steps) {
      const placeholders = step.directive.lists.with.flatMap((name) => PLACEHOLDER_FILES[name] ?? []);
      scratch.provide([scratch.localize(replaced(step)), ...placeholders].join('\n'), given);
    }

    const flags = new Set(steps.flatMap(({ directive }) => [...directive.flags]));
    const more: Record<string, string> = {};
    if (flags.has('registry')) {
      this.registry = await PackageRegistry.start(CHECKOUT);
      Object.assign(more, checkoutToClone(scratch), { npm_config_registry: this.registry.url });
    }
    if (flags.has('network')) {
      this.network = await NetNamespace.create();
      this.network.ip('tuntap add dev tap0 mode tap');
    }
    if (group === 'linux') more['TSVMM_DOCUMENT_WORDS'] = LINUX_WORDS;
    this.env = scratch.environment(more);
    const socket = steps.map(({ directive }) => directive.values.guest).find((path) => path !== undefined);
    if (socket !== undefined) {
      const { restoreLinux } = await import('../linux-snapshot.js');
      this.guest = await restoreLinux(scratch.localize(socket));
    }
  }

  get place(): Place {
    return { cwd: this.scratch.work, env: this.env };
  }

  /** `command` as it is run in the session's network. */
  inNetwork(command: readonly string[]): readonly string[] {
    if (this.network === undefined) return command;
    return ['nsenter', '-t', String(this.network.pid), '-n', '--', ...command];
  }

  async release(keepFolder: boolean): Promise<void> {
    await this.guest?.vm.stop();
    await this.network?.[Symbol.asyncDispose]();
    await this.registry?.close();
    if (!keepFolder) this.scratch.remove();
  }
}
