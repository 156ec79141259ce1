// The KVM ABI on x86-64: ioctl numbers, structure layouts and constants of linux/kvm.h and asm/kvm.h, as data.
//
// Offsets and sizes are bytes. Sizes that an ioctl number encodes are asserted against the constants below it.

export const KVM_API_VERSION = 12;

const KVMIO = 0xae;
const IOC_WRITE = 1;
const IOC_READ = 2;

/** _IOC(direction, KVMIO, number, size) of asm-generic/ioctl.h. */
function ioc(direction: number, number: number, size: number): number {
  return ((direction << 30) | (size << 16) | (KVMIO << 8) | number) >>> 0;
}

/** _IO of an ioctl without a structure. */
function io(number: number): number {
  return ioc(0, number, 0);
}

// System ioctls.
export const KVM_GET_API_VERSION = io(0x00);
export const KVM_CREATE_VM = io(0x01);
export const KVM_CHECK_EXTENSION = io(0x03);
export const KVM_GET_VCPU_MMAP_SIZE = io(0x04);
export const KVM_GET_SUPPORTED_CPUID = ioc(IOC_READ | IOC_WRITE, 0x05, 8);

export const KVM_GET_MSR_INDEX_LIST = ioc(IOC_READ | IOC_WRITE, 0x02, 4);

// VM ioctls.
export const KVM_CREATE_VCPU = io(0x41);
export const KVM_SET_USER_MEMORY_REGION = ioc(IOC_WRITE, 0x46, 32);
export const KVM_SET_TSS_ADDR = io(0x47);
export const KVM_SET_IDENTITY_MAP_ADDR = ioc(IOC_WRITE, 0x48, 8);
export const KVM_CREATE_IRQCHIP = io(0x60);
export const KVM_GET_IRQCHIP = ioc(IOC_READ | IOC_WRITE, 0x62, 520);
export const KVM_SET_IRQCHIP = ioc(IOC_READ, 0x63, 520);
export const KVM_IRQFD = ioc(IOC_WRITE, 0x76, 32);
export const KVM_CREATE_PIT2 = ioc(IOC_WRITE, 0x77, 64);
export const KVM_SET_CLOCK = ioc(IOC_WRITE, 0x7b, 48);
export const KVM_GET_CLOCK = ioc(IOC_READ, 0x7c, 48);
export const KVM_SIGNAL_MSI = ioc(IOC_WRITE, 0xa5, 32);
export const KVM_GET_PIT2 = ioc(IOC_READ, 0x9f, 112);
export const KVM_SET_PIT2 = ioc(IOC_WRITE, 0xa0, 112);
export const KVM_IOEVENTFD = ioc(IOC_WRITE, 0x79, 64);

// vCPU ioctls.
export const KVM_RUN = io(0x80);
export const KVM_GET_REGS = ioc(IOC_READ, 0x81, 144);
export const KVM_SET_REGS = ioc(IOC_WRITE, 0x82, 144);
export const KVM_GET_SREGS = ioc(IOC_READ, 0x83, 312);
export const KVM_SET_SREGS = ioc(IOC_WRITE, 0x84, 312);
export const KVM_GET_MSRS = ioc(IOC_READ | IOC_WRITE, 0x88, 8);
export const KVM_SET_MSRS = ioc(IOC_WRITE, 0x89, 8);
export const KVM_SET_FPU = ioc(IOC_WRITE, 0x8d, 416);
export const KVM_GET_LAPIC = ioc(IOC_READ, 0x8e, 1024);
export const KVM_SET_LAPIC = ioc(IOC_WRITE, 0x8f, 1024);
export const KVM_SET_CPUID2 = ioc(IOC_WRITE, 0x90, 8);
export const KVM_GET_MP_STATE = ioc(IOC_READ, 0x98, 4);
export const KVM_SET_MP_STATE = ioc(IOC_WRITE, 0x99, 4);
export const KVM_NMI = io(0x9a);
export const KVM_GET_VCPU_EVENTS = ioc(IOC_READ, 0x9f, 64);
export const KVM_SET_VCPU_EVENTS = ioc(IOC_WRITE, 0xa0, 64);
export const KVM_GET_DEBUGREGS = ioc(IOC_READ, 0xa1, 128);
export const KVM_SET_DEBUGREGS = ioc(IOC_WRITE, 0xa2, 128);
export const KVM_SET_TSC_KHZ = io(0xa2);
export const KVM_GET_TSC_KHZ = io(0xa3);
export const KVM_GET_XSAVE = ioc(IOC_READ, 0xa4, 4096);
export const KVM_SET_XSAVE = ioc(IOC_WRITE, 0xa5, 4096);
export const KVM_GET_XCRS = ioc(IOC_READ, 0xa6, 392);
export const KVM_SET_XCRS = ioc(IOC_WRITE, 0xa7, 392);
export const KVM_KVMCLOCK_CTRL = io(0xad);
/** Its structure is as large as KVM_CAP_XSAVE2 says; the number encodes that of KVM_GET_XSAVE. */
export const KVM_GET_XSAVE2 = ioc(IOC_READ, 0xcf, 4096);

/** Capabilities that this monitor cannot do without, by name: the youngest is of Linux 4.12. */
export const REQUIRED_CAPABILITIES = {
  KVM_CAP_IRQCHIP: 0,
  KVM_CAP_USER_MEMORY: 3,
  KVM_CAP_SET_TSS_ADDR: 4,
  KVM_CAP_EXT_CPUID: 7,
  KVM_CAP_IRQFD: 32,
  KVM_CAP_PIT2: 33,
  KVM_CAP_IOEVENTFD: 36,
  KVM_CAP_SET_IDENTITY_MAP_ADDR: 37,
  KVM_CAP_IMMEDIATE_EXIT: 136,
} as const;

export const KVM_CAP_MAX_VCPUS = 66;
export const KVM_CAP_TSC_DEADLINE_TIMER = 72;
export const KVM_CAP_TSC_CONTROL = 60;
export const KVM_CAP_XSAVE2 = 208;

/** struct kvm_userspace_memory_region { u32 slot, flags; u64 guest_phys_addr, memory_size, userspace_addr; } */
export const MEMORY_REGION = { SIZE: 32, SLOT: 0, FLAGS: 4, GUEST_PHYS_ADDR: 8, MEMORY_SIZE: 16, USERSPACE_ADDR: 24 };

/** struct kvm_irqfd { u32 fd, gsi, flags, resamplefd; u8 pad[16]; } */
export const IRQFD = { SIZE: 32, FD: 0, GSI: 4, FLAGS: 8 };

/** struct kvm_ioeventfd { u64 datamatch, addr; u32 len; s32 fd; u32 flags; u8 pad[36]; } */
export const IOEVENTFD = { SIZE: 64, DATAMATCH: 0, ADDR: 8, LEN: 16, FD: 20, FLAGS: 24 };
export const KVM_IOEVENTFD_FLAG_DATAMATCH = 1;

/** struct kvm_msi { u32 address_lo, address_hi, data, flags; u8 pad[16]; } */
export const MSI = { SIZE: 32, ADDRESS_LO: 0, DATA: 8 };
/** Message address of an interrupt for every local APIC, by physical destination (Intel SDM 3A, 11.11.1). */
export const MSI_ADDRESS_BROADCAST = 0xfeef_f000;
/** Message data of a non-maskable interrupt: delivery mode 100b (11.11.2). */
export const MSI_DATA_NMI = 0x400;

/** struct kvm_pit_config { u32 flags, pad[15]; } */
export const PIT_CONFIG_SIZE = 64;
/** The speaker port is answered by the kernel and makes no sound. */
export const KVM_PIT_SPEAKER_DUMMY = 1;

/** struct kvm_cpuid2 { u32 nent, padding; struct kvm_cpuid_entry2 entries[]; } */
export const CPUID2_HEADER_SIZE = 8;
/** struct kvm_cpuid_entry2 { u32 function, index, flags, eax, ebx, ecx, edx, padding[3]; } */
export const CPUID_ENTRY = { SIZE: 40, FUNCTION: 0, INDEX: 4, FLAGS: 8, EAX: 12, EBX: 16, ECX: 20, EDX: 24 };

/** struct kvm_msrs { u32 nmsrs, pad; struct kvm_msr_entry { u32 index, reserved; u64 data; } entries[]; } */
export const MSRS_HEADER_SIZE = 8;
export const MSR_ENTRY = { SIZE: 16, INDEX: 0, DATA: 8 };

/** struct kvm_regs: 18 u64 in this order. */
export const REGISTER_NAMES = [
  'rax',
  'rbx',
  'rcx',
  'rdx',
  'rsi',
  'rdi',
  'rsp',
  'rbp',
  'r8',
  'r9',
  'r10',
  'r11',
  'r12',
  'r13',
  'r14',
  'r15',
  'rip',
  'rflags',
] as const;
export type RegisterName = (typeof REGISTER_NAMES)[number];
export const REGS_SIZE = REGISTER_NAMES.length * 8;

/** struct kvm_segment { u64 base; u32 limit; u16 selector; u8 type, present, dpl, db, s, l, g, avl, unusable, pad; } */
export const SEGMENT = {
  SIZE: 24,
  BASE: 0,
  LIMIT: 8,
  SELECTOR: 12,
  TYPE: 14,
  PRESENT: 15,
  DPL: 16,
  DB: 17,
  S: 18,
  L: 19,
  G: 20,
  AVL: 21,
  UNUSABLE: 22,
};
/** struct kvm_dtable { u64 base; u16 limit, padding[3]; } */
export const DTABLE = { SIZE: 16, BASE: 0, LIMIT: 8 };
/**
 * struct kvm_sregs { kvm_segment cs, ds, es, fs, gs, ss, tr, ldt; kvm_dtable gdt, idt;
 * u64 cr0, cr2, cr3, cr4, cr8, efer, apic_base, interrupt_bitmap[4]; }
 */
export const SREGS = {
  SIZE: 312,
  CS: 0,
  DS: 24,
  ES: 48,
  FS: 72,
  GS: 96,
  SS: 120,
  TR: 144,
  LDT: 168,
  GDT: 192,
  IDT: 208,
  CR0: 224,
  CR2: 232,
  CR3: 240,
  CR4: 248,
  CR8: 256,
  EFER: 264,
  APIC_BASE: 272,
};

/** struct kvm_fpu: the fields that a reset state sets. */
export const FPU = { SIZE: 416, FCW: 128, MXCSR: 408 };

/** struct kvm_xsave { u32 region[1024]; u32 extra[]; }: the XSAVE area, as XSAVE writes it. */
export const XSAVE_SIZE = 4096;
/** struct kvm_xcrs { u32 nr_xcrs, flags; struct { u32 xcr, reserved; u64 value; } xcrs[16]; u64 padding[16]; } */
export const XCRS_SIZE = 392;
/** struct kvm_debugregs { u64 db[4], dr6, dr7, flags, reserved[9]; } */
export const DEBUGREGS_SIZE = 128;
/** struct kvm_vcpu_events: pending exceptions, interrupts, NMIs and SMIs. */
export const VCPU_EVENTS_SIZE = 64;
/** struct kvm_mp_state { u32 mp_state; } */
export const MP_STATE_SIZE = 4;

/** struct kvm_irqchip { u32 chip_id, pad; char chip[512]; }: 0 and 1 are the PICs, 2 is the IOAPIC. */
export const IRQCHIP = { SIZE: 520, CHIP_ID: 0 };
export const IRQCHIP_IDS = [0, 1, 2] as const;
/** struct kvm_pit_state2 */
export const PIT_STATE2_SIZE = 112;
/** struct kvm_clock_data { u64 clock; u32 flags, pad0; u64 realtime, host_tsc; u32 pad[4]; } */
export const CLOCK = { SIZE: 48, CLOCK: 0 };

/** struct kvm_lapic_state { char regs[1024]; }: the local APIC page, registers at their APIC offsets. */
export const LAPIC = { SIZE: 1024, LVT_LINT0: 0x350, LVT_LINT1: 0x360 };

/** struct kvm_run: the fields in use. The union of exit details starts at 32. */
export const RUN = {
  IMMEDIATE_EXIT: 1,
  EXIT_REASON: 8,
  IO_DIRECTION: 32,
  IO_SIZE: 33,
  IO_PORT: 34,
  IO_COUNT: 36,
  IO_DATA_OFFSET: 40,
  MMIO_PHYS_ADDR: 32,
  MMIO_DATA: 40,
  MMIO_LEN: 48,
  MMIO_IS_WRITE: 52,
  FAIL_ENTRY_REASON: 32,
  FAIL_ENTRY_CPU: 40,
  INTERNAL_SUBERROR: 32,
  INTERNAL_NDATA: 36,
  INTERNAL_DATA: 40,
  EMULATION_FLAGS: 40,
  EMULATION_INSN_SIZE: 48,
  EMULATION_INSN_BYTES: 49,
  SYSTEM_EVENT_TYPE: 32,
};

export const KVM_EXIT_IO = 2;
export const KVM_EXIT_HLT = 5;
export const KVM_EXIT_MMIO = 6;
export const KVM_EXIT_IRQ_WINDOW_OPEN = 7;
export const KVM_EXIT_SHUTDOWN = 8;
export const KVM_EXIT_FAIL_ENTRY = 9;
export const KVM_EXIT_INTR = 10;
export const KVM_EXIT_INTERNAL_ERROR = 17;
export const KVM_EXIT_SYSTEM_EVENT = 24;

export const KVM_EXIT_IO_OUT = 1;

export const KVM_INTERNAL_ERROR_EMULATION = 1;
export const KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES = 1;

export const KVM_SYSTEM_EVENT_SHUTDOWN = 1;
export const KVM_SYSTEM_EVENT_RESET = 2;
export const KVM_SYSTEM_EVENT_CRASH = 3;
