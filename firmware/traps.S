// SPDX-License-Identifier: Apache-2.0
//
// Everything that runs in CPL 0 after entry: services, interrupts, faults.
//
// CPL 3 asks for a service by calling service_trap, which divides by zero. Of the ways into CPL 0, syscall and int n
// misbehave where kernel mode is emulated; ud2 works there but takes over twice as long, because KVM first
// tries to emulate the instruction that faulted. #DE has no such detour on any host. The frame points at the division
// itself; a #DE from any other address is an ordinary fault. Services may use the registers that the C calling
// convention calls volatile, and should be short.

#include "layout.inc"

    .section .stubs, "awx"

// u64 service_trap(number, a, b, c): rdi, rsi, rdx, rcx.
    .globl service_trap
service_trap:
    xorl %eax, %eax
trap_instruction:
    divb %al                            // two bytes: f6 f0
trap_instruction_end:
    ret

    .globl trap_entry
trap_entry:
    cmpq $trap_instruction, (%rsp)
    jne fault_stubs
    addq $trap_instruction_end - trap_instruction, (%rsp)
    jmp *service_table(, %rdi, 8)

    .balign 8
service_table:
    .quad service_idle
    .quad service_write_port
    .quad service_wrmsr
    .quad service_port_bench
    .quad service_crash

// Sleep until an interrupt. The caller has looked at everything with interrupts off, and whatever came since is
// pending, so nothing is lost between its look and the halt.
service_idle:
    sti
    hlt
    cli
    iretq

// Write rcx bytes at rsi to port dx. From here, because a port exit from CPL 3 costs twice as much where CPL 0 is
// emulated.
service_write_port:
    rep outsb
    iretq

// rsi: MSR, rdx: value.
service_wrmsr:
    movl %esi, %ecx
    movl %edx, %eax
    shrq $32, %rdx
    wrmsr
    iretq

// Port exits for ever, for whoever counts them.
service_port_bench:
    outb %al, $PORT_DEBUG
    jmp service_port_bench

// Triple fault: with an empty IDT neither the ud2 nor the double fault that follows can be delivered.
service_crash:
    lidt idtr_empty
    ud2

// Interrupts are taken only inside service_idle. Each leaves a byte for the poll loop.
    .macro irq name, flag
    .globl \name
\name:
    movb $1, irq_flags + \flag
    pushq %rax
    movl $LAPIC_EOI, %eax
    movl $0, (%rax)
    popq %rax
    iretq
    .endm

    irq irq_serial, 0
    irq irq_vsock, 1

// The local APIC expects no end-of-interrupt for this one.
    .globl irq_spurious
irq_spurious:
    iretq

// Faults: an eight-byte stub per vector. The call leaves an address on the stack from which the vector follows; vectors
// without an error code push a zero in its place, so that fault_common sees one layout.
    .balign 8
    .globl fault_stubs
fault_stubs:
    .set vector, 0
    .rept IDT_ENTRIES
    .balign 8
    .if (vector != 8) && (vector < 10 || vector > 14) && (vector != 17) && (vector != 21)
    pushq $0
    .endif
    call fault_common
    .set vector, vector + 1
    .endr

// Report in CPL 3, where C code is fast: panic(vector, error, rip, cr2, cs, rsp). A fault in there crashes at once.
fault_common:
    btsl $0, fault_seen
    jc service_crash
    popq %rdi
    subq $fault_stubs, %rdi
    shrl $3, %edi
    popq %rsi
    movq (%rsp), %rdx
    movq %cr2, %rcx
    movq 8(%rsp), %r8
    movq 24(%rsp), %r9
    pushq $USER_DS
    pushq $panic_stack_top
    pushq $RFLAGS_USER
    pushq $USER_CS
    pushq $panic_entry
    iretq

panic_entry:
    call panic
    ud2

    .globl stubs_end
stubs_end:

    .bss
    .globl irq_flags
irq_flags:
    .space 2
    .balign 4
fault_seen:
    .space 4
    .balign 16
    .space 2048
panic_stack_top:
