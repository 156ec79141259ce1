// SPDX-License-Identifier: Apache-2.0
// What a guest and its monitor pay to reach each other here, measured with the smallest guests that there can be. Prints, in
// microseconds: a port exit from CPL 0 and back; an MMIO exit from CPL 3 and back; a write to an ioeventfd from CPL 0,
// and from CPL 3; an irqfd that wakes a halted guest, whose handler writes to an ioeventfd for which the caller sleeps.

#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "common.h"

#define MEMORY_SIZE (2u << 20)
#define PML4 0x1000
#define PDPT 0x2000
#define PD_RAM 0x3000
#define PD_DEVICES 0x4000
#define GDT 0x5000
#define IDT 0x6000
#define STACK 0x8000
#define CODE 0x100000
#define HANDLER 0x101000

// What nobody answers in the kernel, and what an ioeventfd does.
#define EXIT_WINDOW 0xd0000000
#define EVENT_WINDOW 0xd0001000
#define LAPIC_EOI 0xfee000b0
#define LAPIC_SVR 0xf0
#define GSI 5
#define VECTOR 0x20

#define SECONDS 0.1
#define WRITES_PER_EXIT 100
#define WAKE_UPS 300

struct machine {
    int vm, vcpu, event, irq;
    uint8_t *memory;
    struct kvm_run *run;
    int run_size;
};

static struct kvm_segment flat(uint16_t selector, uint8_t type, uint8_t l)
{
    return (struct kvm_segment){.limit = 0xffffffff,
                                .selector = selector,
                                .type = type,
                                .present = 1,
                                .dpl = selector & 3,
                                .s = 1,
                                .g = 1,
                                .l = l,
                                .db = !l};
}

static void map_memory(uint8_t *memory)
{
    // Present, writable, user; 0x80: a page of 2 MiB.
    *(uint64_t *)(memory + PML4) = PDPT | 7;
    *(uint64_t *)(memory + PDPT) = PD_RAM | 7;
    *(uint64_t *)(memory + PDPT + 3 * 8) = PD_DEVICES | 7;
    *(uint64_t *)(memory + PD_RAM) = 0x87;
    for (uint64_t i = 0; i < 512; i++) *(uint64_t *)(memory + PD_DEVICES + i * 8) = (0xc0000000 + (i << 21)) | 0x87;
    *(uint64_t *)(memory + GDT + 0x08) = 0x00af9b000000ffff;
    *(uint64_t *)(memory + GDT + 0x10) = 0x00cf93000000ffff;
    *(uint64_t *)(memory + GDT + 0x18) = 0x00affb000000ffff;
    *(uint64_t *)(memory + GDT + 0x20) = 0x00cff3000000ffff;
    // An interrupt gate.
    *(uint64_t *)(memory + IDT + VECTOR * 16) =
        (HANDLER & 0xffff) | 8 << 16 | 0x8eull << 40 | (uint64_t)(HANDLER >> 16) << 48;
}

static struct machine create(int kvm, int cpl)
{
    struct machine m;
    m.vm = CHECK(ioctl(kvm, KVM_CREATE_VM, 0));
    CHECK(ioctl(m.vm, KVM_SET_TSS_ADDR, 0xfffbd000));
    CHECK(ioctl(m.vm, KVM_CREATE_IRQCHIP, 0));
    m.memory = mmap(NULL, MEMORY_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    struct kvm_userspace_memory_region region = {.memory_size = MEMORY_SIZE, .userspace_addr = (uintptr_t)m.memory};
    CHECK(ioctl(m.vm, KVM_SET_USER_MEMORY_REGION, &region));
    map_memory(m.memory);
    m.event = CHECK(eventfd(0, EFD_CLOEXEC));
    struct kvm_ioeventfd event = {.addr = EVENT_WINDOW, .len = 4, .fd = m.event};
    CHECK(ioctl(m.vm, KVM_IOEVENTFD, &event));

    m.vcpu = CHECK(ioctl(m.vm, KVM_CREATE_VCPU, 0));
    m.run_size = CHECK(ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0));
    m.run = mmap(NULL, m.run_size, PROT_READ | PROT_WRITE, MAP_SHARED, m.vcpu, 0);
    struct kvm_sregs sregs;
    CHECK(ioctl(m.vcpu, KVM_GET_SREGS, &sregs));
    sregs.cs = flat(cpl == 0 ? 0x08 : 0x1b, 11, 1);
    sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = flat(cpl == 0 ? 0x10 : 0x23, 3, 0);
    sregs.gdt = (struct kvm_dtable){.base = GDT, .limit = 0x27};
    sregs.idt = (struct kvm_dtable){.base = IDT, .limit = 0xfff};
    sregs.cr3 = PML4;
    sregs.cr4 = 0x20;       // PAE
    sregs.cr0 = 0x80000011; // PG, ET, PE
    sregs.efer = 0x500;     // LMA, LME
    CHECK(ioctl(m.vcpu, KVM_SET_SREGS, &sregs));
    struct kvm_regs regs = {.rip = CODE, .rflags = 2, .rsp = STACK, .rdi = EVENT_WINDOW, .rsi = EXIT_WINDOW};
    CHECK(ioctl(m.vcpu, KVM_SET_REGS, &regs));
    return m;
}

static void destroy(struct machine *m)
{
    munmap(m->run, m->run_size);
    close(m->vcpu);
    close(m->event);
    close(m->vm);
    munmap(m->memory, MEMORY_SIZE);
}

// Seconds per exit.
static double time_exits(struct machine *m, uint32_t reason)
{
    for (int i = 0; i < 10; i++) CHECK(ioctl(m->vcpu, KVM_RUN, 0));
    long exits = 0;
    double start = now(), time;
    do {
        CHECK(ioctl(m->vcpu, KVM_RUN, 0));
        exits++;
        if (m->run->exit_reason != reason) {
            fprintf(stderr, "unexpected exit %u\n", m->run->exit_reason);
            exit(1);
        }
    } while ((time = now()) < start + SECONDS);
    destroy(m);
    return (time - start) / exits;
}

static double port_exit(int kvm)
{
    struct machine m = create(kvm, 0);
    memcpy(m.memory + CODE, "\xe6\x80\xeb\xfc", 4); // 1: out %al, $0x80; jmp 1b
    return time_exits(&m, KVM_EXIT_IO);
}

static double mmio_exit(int kvm, int cpl)
{
    struct machine m = create(kvm, cpl);
    memcpy(m.memory + CODE, "\x89\x06\xeb\xfc", 4); // 1: mov %eax, (%rsi); jmp 1b
    return time_exits(&m, KVM_EXIT_MMIO);
}

static double event_write(int kvm, int cpl)
{
    double exit_time = mmio_exit(kvm, cpl);
    struct machine m = create(kvm, cpl);
    uint8_t *code = m.memory + CODE;
    for (int i = 0; i < WRITES_PER_EXIT; i++) code = mempcpy(code, "\x89\x07", 2); // mov %eax, (%rdi)
    code = mempcpy(code, "\x89\x06\xe9", 3);                                       // mov %eax, (%rsi); jmp
    int32_t back = -(int32_t)(code + 4 - (m.memory + CODE));
    memcpy(code, &back, sizeof back);
    return (time_exits(&m, KVM_EXIT_MMIO) - exit_time) / WRITES_PER_EXIT;
}

static void *run_vcpu(void *argument)
{
    struct machine *m = argument;
    // The guest halts in the kernel and never exits; the end is the process's.
    CHECK(ioctl(m->vcpu, KVM_RUN, 0));
    fprintf(stderr, "unexpected exit %u\n", m->run->exit_reason);
    exit(1);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double wake_up(int kvm)
{
    static struct machine m;
    m = create(kvm, 0);
    memcpy(m.memory + CODE, "\xfb\xf4\xeb\xfc", 4); // 1: sti; hlt; jmp 1b
    // mov %eax, (%rdi); mov %eax, (%rsi); iretq
    memcpy(m.memory + HANDLER, "\x89\x07\x89\x06\x48\xcf", 6);
    struct kvm_regs regs;
    CHECK(ioctl(m.vcpu, KVM_GET_REGS, &regs));
    regs.rsi = LAPIC_EOI;
    CHECK(ioctl(m.vcpu, KVM_SET_REGS, &regs));
    struct kvm_lapic_state lapic;
    CHECK(ioctl(m.vcpu, KVM_GET_LAPIC, &lapic));
    *(uint32_t *)(lapic.regs + LAPIC_SVR) = 0x1ff;
    CHECK(ioctl(m.vcpu, KVM_SET_LAPIC, &lapic));
    struct {
        struct kvm_irq_routing routing;
        struct kvm_irq_routing_entry entry;
    } routes = {.routing.nr = 1,
                .entry = {.gsi = GSI,
                          .type = KVM_IRQ_ROUTING_MSI,
                          .u.msi = {.address_lo = 0xfee00000, .data = VECTOR}}};
    CHECK(ioctl(m.vm, KVM_SET_GSI_ROUTING, &routes));
    m.irq = CHECK(eventfd(0, EFD_CLOEXEC));
    struct kvm_irqfd irq = {.fd = m.irq, .gsi = GSI};
    CHECK(ioctl(m.vm, KVM_IRQFD, &irq));

    pthread_t thread;
    CHECK(-pthread_create(&thread, NULL, run_vcpu, &m));
    usleep(20000);
    static double samples[WAKE_UPS];
    for (int i = 0; i < WAKE_UPS; i++) {
        eventfd_t count;
        double start = now();
        CHECK(eventfd_write(m.irq, 1));
        CHECK(eventfd_read(m.event, &count));
        samples[i] = now() - start;
        // Let the guest halt again.
        usleep(100);
    }
    qsort(samples, WAKE_UPS, sizeof *samples, by_value);
    return samples[WAKE_UPS / 2];
}

int main(void)
{
    // A guest that does not answer must not hold up a benchmark.
    alarm(20);
    int kvm = CHECK(open("/dev/kvm", O_RDWR | O_CLOEXEC));
    double costs[] = {port_exit(kvm), mmio_exit(kvm, 3), event_write(kvm, 0), event_write(kvm, 3), wake_up(kvm)};
    for (size_t i = 0; i < sizeof costs / sizeof *costs; i++) printf("%f ", costs[i] * 1e6);
    printf("\n");
    return 0;
}
