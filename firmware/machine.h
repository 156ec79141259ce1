// SPDX-License-Identifier: Apache-2.0
//
// The processor and the legacy ports, as C sees them from CPL 3.

#ifndef MACHINE_H
#define MACHINE_H

#include "layout.inc"
#include "types.h"

// Written to PORT_DEBUG when the services answer; entry.S writes 1 there first.
#define READY_MARK 0x02

// Interrupts taken since the loop last looked; set by traps.S.
struct irq_flags {
    u8 serial;
    u8 vsock;
};
extern volatile struct irq_flags irq_flags;

// traps.S; arguments by service.
u64 service_trap(u64 number, u64 a, u64 b, u64 c);

static inline void idle(void)
{
    service_trap(SERVICE_IDLE, 0, 0, 0);
}

static inline void write_port(u16 port, const void *bytes, size_t count)
{
    service_trap(SERVICE_WRITE_PORT, (u64)bytes, port, count);
}

static inline void wrmsr(u32 msr, u64 value)
{
    service_trap(SERVICE_WRMSR, msr, value, 0);
}

static inline _Noreturn void port_bench(void)
{
    service_trap(SERVICE_PORT_BENCH, 0, 0, 0);
    __builtin_unreachable();
}

static inline _Noreturn void crash(void)
{
    service_trap(SERVICE_CRASH, 0, 0, 0);
    __builtin_unreachable();
}

static inline void outb(u16 port, u8 value)
{
    __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static inline u8 inb(u16 port)
{
    u8 value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static inline u64 rdtsc(void)
{
    u32 low, high;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    return (u64)high << 32 | low;
}

struct cpuid {
    u32 eax, ebx, ecx, edx;
};

static inline struct cpuid cpuid(u32 leaf)
{
    struct cpuid r;
    __asm__ volatile("cpuid" : "=a"(r.eax), "=b"(r.ebx), "=c"(r.ecx), "=d"(r.edx) : "a"(leaf), "c"(0));
    return r;
}

static inline void pause(void)
{
    __asm__ volatile("pause");
}

// Orders our earlier stores before our later loads, which x86 alone does not.
static inline void store_load_barrier(void)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

static inline u32 mmio_read(u64 address)
{
    return *(volatile u32 *)address;
}

static inline void mmio_write(u64 address, u32 value)
{
    *(volatile u32 *)address = value;
}

// interrupts.c
void interrupts_setup(void);
bool interrupts_route(u32 gsi, u8 vector);

#endif
