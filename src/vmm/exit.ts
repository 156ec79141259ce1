// How a VM ended.

export type VmExit =
  /**
   * The guest powered off, it reset itself or its watchdog did and that is to end the VM (`no_reboot`), or `stop` was
   * called. `panicked`: since it last booted, the guest has said through pvpanic that its kernel panicked.
   */
  | { readonly reason: 'shutdown' | 'reset' | 'stopped'; readonly panicked?: true }
  /** The guest cannot go on (triple fault, KVM internal error); the report says where it stood. */
  | { readonly reason: 'crash'; readonly report: string }
  /** A worker failed, which is a bug of this project; or the guest could not be started again for its reboot. */
  | { readonly reason: 'failure'; readonly error: Error };
