// Where the time goes between the start of the process and the guest's first instruction.

/** Milliseconds since the epoch, with fractions, comparable between the threads of a process. */
export function epochNow(): number {
  return performance.timeOrigin + performance.now();
}

/** Moments of one VM's start, in milliseconds since the epoch; 0 for what has not happened. */
export interface StartTimes {
  /** The process began; for a VM made later in a long-lived process this says nothing about the VM. */
  readonly process: number;
  /** Node was ready to run the program. */
  readonly node: number;
  /** `Vm.create` was called: every module of the main thread is loaded. */
  create: number;
  /** KVM is open. */
  kvm: number;
  /** Guest memory is allocated and registered. */
  memory: number;
  /** Kernel, initramfs and tables are in guest memory. */
  loaded: number;
  /** The vCPU worker has loaded its modules, meanwhile. */
  workerLoaded: number;
  /** The vCPU is set up and about to enter the guest. */
  entering: number;
  /** The guest wrote POST code 1: the first thing the built-in guest does. */
  firstInstruction: number;
}

/** The times known before a VM exists. */
export function newStartTimes(): StartTimes {
  const { timeOrigin, nodeTiming } = performance;
  return {
    process: timeOrigin,
    node: timeOrigin + nodeTiming.bootstrapComplete,
    create: 0,
    kvm: 0,
    memory: 0,
    loaded: 0,
    workerLoaded: 0,
    entering: 0,
    firstInstruction: 0,
  };
}
