// SPDX-License-Identifier: Apache-2.0
// The reference of the `warm` benchmark: what the kernel itself takes from nothing to a guest's first instruction. A VM
// with interrupt chips, PIT, argv[1] MiB of memory, the eventfds of a serial port and a vsock device, and one vCPU in
// 64-bit mode that writes to port 0x80. Does so argv[2] times in one process, each with a line of microseconds on
// stdout: all of it; its parts, which are the VM with memory and chips, the eventfds, the vCPU, the first exit; and what it
// takes to be rid of it all.

#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common.h"

#define PML4 0x1000
#define PDPT 0x2000
#define PD 0x3000
#define CODE 0x100000
#define MMIO 0xd0000000
#define QUEUE_NOTIFY 0x50
#define QUEUES 3
#define GSIS 3
#define MAX_CPUID 256

static struct kvm_segment flat(uint16_t selector, uint8_t type, uint8_t l)
{
    return (struct kvm_segment){
        .limit = 0xffffffff, .selector = selector, .type = type, .present = 1, .s = 1, .g = 1, .l = l, .db = !l};
}

static double microseconds(void)
{
    return now() * 1e6;
}

static void once(int kvm, size_t size)
{
    static struct {
        struct kvm_cpuid2 head;
        struct kvm_cpuid_entry2 entries[MAX_CPUID];
    } cpuid;
    const int gsis[GSIS] = {4, 9, 5};
    int events[QUEUES + GSIS];
    double begin = microseconds();

    int vm = CHECK(ioctl(kvm, KVM_CREATE_VM, 0));
    uint8_t *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    *(uint64_t *)(memory + PML4) = PDPT | 3;
    *(uint64_t *)(memory + PDPT) = PD | 3;
    *(uint64_t *)(memory + PD) = 0x83;
    memcpy(memory + CODE, "\xe6\x80\xeb\xfc", 4); // 1: out %al, $0x80; jmp 1b
    struct kvm_userspace_memory_region region = {.memory_size = size, .userspace_addr = (uintptr_t)memory};
    CHECK(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region)); // Before the chips: see src/vmm/kvm/vm-fd.ts.
    uint64_t identity = 0xfffbc000;
    CHECK(ioctl(vm, KVM_SET_TSS_ADDR, 0xfffbd000));
    CHECK(ioctl(vm, KVM_SET_IDENTITY_MAP_ADDR, &identity));
    CHECK(ioctl(vm, KVM_CREATE_IRQCHIP, 0));
    struct kvm_pit_config pit = {.flags = KVM_PIT_SPEAKER_DUMMY};
    CHECK(ioctl(vm, KVM_CREATE_PIT2, &pit));
    double with_chips = microseconds();

    for (int i = 0; i < GSIS; i++) {
        events[i] = CHECK(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
        struct kvm_irqfd irqfd = {.fd = events[i], .gsi = gsis[i]};
        CHECK(ioctl(vm, KVM_IRQFD, &irqfd));
    }
    for (int i = 0; i < QUEUES; i++) {
        events[GSIS + i] = CHECK(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
        struct kvm_ioeventfd notify = {.datamatch = i,
                                       .addr = MMIO + QUEUE_NOTIFY,
                                       .len = 4,
                                       .fd = events[GSIS + i],
                                       .flags = KVM_IOEVENTFD_FLAG_DATAMATCH};
        CHECK(ioctl(vm, KVM_IOEVENTFD, &notify));
    }
    double with_events = microseconds();

    int vcpu = CHECK(ioctl(vm, KVM_CREATE_VCPU, 0));
    int run_size = CHECK(ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0));
    struct kvm_run *run = mmap(NULL, run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
    cpuid.head.nent = MAX_CPUID;
    CHECK(ioctl(kvm, KVM_GET_SUPPORTED_CPUID, &cpuid));
    CHECK(ioctl(vcpu, KVM_SET_CPUID2, &cpuid));
    struct kvm_sregs sregs;
    CHECK(ioctl(vcpu, KVM_GET_SREGS, &sregs));
    sregs.cs = flat(8, 11, 1);
    sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = flat(16, 3, 0);
    sregs.cr3 = PML4;
    sregs.cr4 = 0x20;       // PAE
    sregs.cr0 = 0x80000011; // PG, ET, PE
    sregs.efer = 0x500;     // LMA, LME
    CHECK(ioctl(vcpu, KVM_SET_SREGS, &sregs));
    struct kvm_regs regs = {.rip = CODE, .rflags = 2, .rax = 1};
    CHECK(ioctl(vcpu, KVM_SET_REGS, &regs));
    double with_vcpu = microseconds();

    CHECK(ioctl(vcpu, KVM_RUN, 0));
    if (run->exit_reason != KVM_EXIT_IO) {
        fprintf(stderr, "the guest left with %u, not at its port\n", run->exit_reason);
        exit(1);
    }
    double end = microseconds();
    munmap(run, run_size);
    close(vcpu);
    for (int i = 0; i < QUEUES + GSIS; i++) close(events[i]);
    close(vm);
    munmap(memory, size);
    printf("%.1f %.1f %.1f %.1f %.1f %.1f\n", end - begin, with_chips - begin, with_events - with_chips,
           with_vcpu - with_events, end - with_vcpu, microseconds() - end);
}

int main(int argc, char **argv)
{
    size_t size = (size_t)(argc > 1 ? atol(argv[1]) : 512) << 20;
    int rounds = argc > 2 ? atoi(argv[2]) : 1;
    int kvm = CHECK(open("/dev/kvm", O_RDWR | O_CLOEXEC));
    while (rounds-- > 0) once(kvm, size);
    return 0;
}
