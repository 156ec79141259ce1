// SPDX-License-Identifier: Apache-2.0
// The reference of the `exits` benchmark: a guest in 64-bit mode that writes to port 0x80 for ever, and the smallest
// loop around KVM_RUN that there can be. Prints exits per second over argv[1] seconds.

#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>

#include "common.h"

#define MEMORY_SIZE (2u << 20)
#define PML4 0x1000
#define PDPT 0x2000
#define PD 0x3000
#define CODE 0x100000

static struct kvm_segment flat(uint16_t selector, uint8_t type, uint8_t l)
{
    return (struct kvm_segment){
        .limit = 0xffffffff, .selector = selector, .type = type, .present = 1, .s = 1, .g = 1, .l = l, .db = !l};
}

int main(int argc, char **argv)
{
    double seconds = argc > 1 ? atof(argv[1]) : 1;
    int kvm = CHECK(open("/dev/kvm", O_RDWR | O_CLOEXEC));
    int vm = CHECK(ioctl(kvm, KVM_CREATE_VM, 0));
    CHECK(ioctl(vm, KVM_SET_TSS_ADDR, 0xfffbd000));
    CHECK(ioctl(vm, KVM_CREATE_IRQCHIP, 0));
    uint8_t *memory = mmap(NULL, MEMORY_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    struct kvm_userspace_memory_region region = {.memory_size = MEMORY_SIZE, .userspace_addr = (uintptr_t)memory};
    CHECK(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region));
    *(uint64_t *)(memory + PML4) = PDPT | 3;
    *(uint64_t *)(memory + PDPT) = PD | 3;
    *(uint64_t *)(memory + PD) = 0x83;
    memcpy(memory + CODE, "\xe6\x80\xeb\xfc", 4); // 1: out %al, $0x80; jmp 1b

    int vcpu = CHECK(ioctl(vm, KVM_CREATE_VCPU, 0));
    int size = CHECK(ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0));
    struct kvm_run *run = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
    struct kvm_sregs sregs;
    CHECK(ioctl(vcpu, KVM_GET_SREGS, &sregs));
    sregs.cs = flat(8, 11, 1);
    sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = flat(16, 3, 0);
    sregs.cr3 = PML4;
    sregs.cr4 = 0x20;       // PAE
    sregs.cr0 = 0x80000011; // PG, ET, PE
    sregs.efer = 0x500;     // LMA, LME
    CHECK(ioctl(vcpu, KVM_SET_SREGS, &sregs));
    struct kvm_regs regs = {.rip = CODE, .rflags = 2};
    CHECK(ioctl(vcpu, KVM_SET_REGS, &regs));

    for (int i = 0; i < 1000; i++) CHECK(ioctl(vcpu, KVM_RUN, 0));
    long exits = 0;
    double start = now(), end = start + seconds;
    while (now() < end) {
        for (int i = 0; i < 100; i++, exits++) {
            CHECK(ioctl(vcpu, KVM_RUN, 0));
            if (run->exit_reason != KVM_EXIT_IO) {
                fprintf(stderr, "unexpected exit %u\n", run->exit_reason);
                return 1;
            }
        }
    }
    printf("%f\n", exits / (now() - start));
    return 0;
}
