// The processor state in which a loaded guest begins: plain data, for the vCPU code to turn into KVM structures.
//
// Field names and meanings are those of struct kvm_segment, kvm_dtable, kvm_sregs and kvm_regs (linux/kvm.h); what
// is not named here starts as zero (registers) or as KVM resets it (APIC base, cr8).

/** How the boot processor enters the guest. */
export type BootProtocol = 'linux64' | 'pvh';

/** struct kvm_segment: a segment register with its hidden part. */
export interface SegmentState {
  readonly selector: number;
  readonly base: number;
  /** In bytes (already scaled when `g` is 1). */
  readonly limit: number;
  readonly type: number;
  /** 1 for code and data, 0 for system segments. */
  readonly s: 0 | 1;
  readonly dpl: number;
  readonly present: 0 | 1;
  readonly avl: 0 | 1;
  readonly l: 0 | 1;
  readonly db: 0 | 1;
  readonly g: 0 | 1;
  readonly unusable: 0 | 1;
}

/** struct kvm_dtable. */
export interface DescriptorTable {
  readonly base: number;
  readonly limit: number;
}

/** The part of struct kvm_sregs that a boot protocol prescribes. */
export interface SpecialRegisters {
  readonly cs: SegmentState;
  readonly ds: SegmentState;
  readonly es: SegmentState;
  readonly fs: SegmentState;
  readonly gs: SegmentState;
  readonly ss: SegmentState;
  readonly tr: SegmentState;
  readonly ldt: SegmentState;
  readonly gdt: DescriptorTable;
  readonly idt: DescriptorTable;
  readonly cr0: number;
  readonly cr3: number;
  readonly cr4: number;
  readonly efer: number;
}

/** The part of struct kvm_regs that is not zero. All values are guest-physical addresses below 2^52, or flags. */
export interface GeneralRegisters {
  readonly rip: number;
  readonly rsp: number;
  readonly rbp: number;
  readonly rbx: number;
  readonly rsi: number;
  readonly rflags: number;
}

/** What `loadGuest` leaves behind: the entry state of vCPU 0, and where things went, for logs and tests. */
export interface BootState {
  readonly protocol: BootProtocol;
  /** Guest-physical address of the first instruction. */
  readonly entry: number;
  readonly registers: GeneralRegisters;
  readonly sregs: SpecialRegisters;
  readonly placement: {
    /** From the lowest to the highest byte of the kernel's segments. */
    readonly kernel: { readonly start: number; readonly end: number };
    readonly initramfs: { readonly gpa: number; readonly size: number } | undefined;
    readonly cmdline: string;
  };
}
