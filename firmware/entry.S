// SPDX-License-Identifier: Apache-2.0
//
// Entry from the 64-bit Linux boot protocol: long mode, CPL 0, interrupts off, RSI = boot_params.
//
// Leaves CPL 0 as soon as the static tables are loaded. main() and everything after it runs in CPL 3 with interrupts
// off; what needs CPL 0 goes through service_trap (traps.S).

#include "layout.inc"

#define START_MARK 0x01

    .text
    .globl entry
entry:
    // The first visible act, for whoever measures start-up.
    movb $START_MARK, %al
    outb %al, $PORT_DEBUG

    movl $pml4, %eax
    movq %rax, %cr3
    lgdt gdtr
    lidt idtr
    movl $TSS_SELECTOR, %eax
    ltr %ax

    // The boot protocol promises no stack. RSI goes through to CPL 3 untouched.
    movl $kernel_stack_top, %esp
    pushq $USER_DS
    pushq $user_stack_top
    pushq $RFLAGS_USER
    pushq $USER_CS
    pushq $user_entry
    iretq

user_entry:
    movq %rsi, %rdi
    xorl %ebp, %ebp
    call main
    ud2

    .bss
    .balign 16
    .space 4096
    .globl kernel_stack_top, double_fault_stack_top, user_stack_top
kernel_stack_top:
    .space 1024
double_fault_stack_top:
    .space 16384
user_stack_top:
