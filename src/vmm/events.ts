// What happens to a VM, for whoever watches it.

export type VmEvent =
  /** The first instruction is about to run. */
  | { readonly type: 'booted' }
  /** The guest reboots: the same devices, cleared memory, the kernel loaded again. */
  | { readonly type: 'rebooted' }
  | { readonly type: 'paused' | 'resumed' | 'restored' }
  /** The guest said through pvpanic that its kernel panicked, or that a crash kernel takes over. */
  | { readonly type: 'panicked' | 'crash-loaded' }
  /** The guest's watchdog has run out, which resets the machine. */
  | { readonly type: 'watchdog-expired' };
