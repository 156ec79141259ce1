// SPDX-License-Identifier: Apache-2.0
//
// Page tables, GDT, TSS and IDT as static data.
//
// Where kernel mode is emulated (hosts without VMX or SVM) every CPL 0 instruction costs half a microsecond or more, so
// whatever the assembler and linker can compute is not computed at run time. Descriptors want addresses in pieces,
// which relocations cannot express; but the image starts at 1 MiB and all stubs and the TSS lie within 64 KiB of it
// (firmware.ld asserts that), so the upper half of each address is a constant.

#include "layout.inc"

#define IMAGE_BASE 0x100000
#define IMAGE_HIGH (IMAGE_BASE >> 16)

// Page-table entry bits (Intel SDM volume 3, 4.5). Accessed and dirty are preset: no walker has to set them.
#define PTE_P 0x01
#define PTE_RW 0x02
#define PTE_US 0x04
#define PTE_PWT 0x08
#define PTE_PCD 0x10
#define PTE_A 0x20
#define PTE_D 0x40
#define PTE_PS 0x80
#define TABLE (PTE_P | PTE_RW | PTE_US | PTE_A)
#define RAM_2M (PTE_P | PTE_RW | PTE_US | PTE_A | PTE_D | PTE_PS)
#define DEVICE_2M (RAM_2M | PTE_PWT | PTE_PCD)

    // Identity map, all of it open to CPL 3: 0-1 GiB as memory, 3-4 GiB uncached for devices.
    .section .tables, "aw"
    .balign 4096
    .globl pml4
pml4:
    .quad pdpt + TABLE
    .fill 511, 8, 0
pdpt:
    .quad pd_ram + TABLE
    .quad 0
    .quad 0
    .quad pd_devices + TABLE
    .fill 508, 8, 0

    .macro identity_map from, attributes
    .set at, \from
    .rept 512
    .quad at + \attributes
    .set at, at + 0x200000
    .endr
    .endm

pd_ram:
    identity_map 0, (RAM_2M)
pd_devices:
    identity_map 0xc0000000, (DEVICE_2M)

    .section .stubs, "awx"
    .balign 16
gdt:
    .quad 0
    .quad 0
    .quad 0x00af9b000000ffff            // 0x10: kernel code, long mode
    .quad 0x00cf93000000ffff            // 0x18: kernel data
    .quad 0x00cff3000000ffff            // 0x20: user data (selector 0x23)
    .quad 0x00affb000000ffff            // 0x28: user code, long mode (selector 0x2b)
    .word tss_end - tss - 1             // 0x30: TSS: limit 15:0
    .word tss - IMAGE_BASE              //       base 15:0
    .byte IMAGE_HIGH                    //       base 23:16
    .byte 0x89                          //       present, available 64-bit TSS
    .byte 0, 0                          //       limit 19:16, base 31:24
    .quad 0                             //       base 63:32
gdt_end:

    .globl gdtr, idtr, idtr_empty
gdtr:
    .word gdt_end - gdt - 1
    .quad gdt
idtr:
    .word IDT_ENTRIES * 16 - 1
    .quad idt
idtr_empty:
    .word 0
    .quad 0

    .balign 16
tss:
    .long 0
    .quad kernel_stack_top              // RSP0: every entry from CPL 3
    .quad 0, 0                          // RSP1, RSP2
    .quad 0
    .quad double_fault_stack_top        // IST1
    .quad 0, 0, 0, 0, 0, 0
    .quad 0
    .word 0
    .word io_bitmap - tss
    // Not IOPL 3: an emulated iretq may drop it, while every host honours the bitmap.
io_bitmap:
    .fill OPEN_PORTS / 8, 1, 0
    .byte 0xff                          // a last byte of ones, as the processor reads two bytes at a time
tss_end:

    // 64-bit interrupt gates: interrupts stay off in the handler.
    .macro gate handler, ist=0
    .word \handler - IMAGE_BASE
    .word KERNEL_CS
    .byte \ist
    .byte 0x8e
    .word IMAGE_HIGH
    .quad 0
    .endm

    .macro fault_gates first, last
    .set vector, \first
    .rept \last - \first + 1
    gate "fault_stubs+vector*8"
    .set vector, vector + 1
    .endr
    .endm

    .balign 16
idt:
    gate trap_entry                     // 0: #DE, the way into CPL 0 services
    fault_gates 1, 7
    gate "fault_stubs+8*8", 1           // 8: #DF, on a stack of its own
    fault_gates 9, (VECTOR_SERIAL-1)
    gate irq_serial
    gate irq_vsock
    fault_gates (VECTOR_VSOCK+1), (VECTOR_SPURIOUS-1)
    gate irq_spurious
