// How a VM ended.

/** How a VM ended, by `reason`. None of these is an exception: `vm.exited` never rejects. */
export type VmExit =
  /**
   * The guest powered off, it reset itself or its watchdog did and that is to end the VM (`no_reboot`), or `stop` was
   * called. `panicked`: since it last booted, the guest has said through pvpanic that its kernel panicked.
   */
  | {
      /** `shutdown`: the guest powered off. `reset`: it rebooted. `stopped`: `stop` was called. */
      readonly reason: 'shutdown' | 'reset' | 'stopped';
      /** There, and true, when the kernel had panicked. */
      readonly panicked?: true;
    }
  /** The guest cannot go on (triple fault, KVM internal error); the report says where it stood. */
  | {
      /** The guest did something that no machine goes on from. */
      readonly reason: 'crash';
      /** Registers and the code at the instruction pointer, in lines. */
      readonly report: string;
    }
  /** A worker failed, which is a bug of this project; or the guest could not be started again for its reboot. */
  | {
      /** The monitor failed, not the guest. */
      readonly reason: 'failure';
      /** What failed, usually a VmError. */
      readonly error: Error;
    };
