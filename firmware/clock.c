// SPDX-License-Identifier: Apache-2.0
//
// KVM's paravirtual clock (Linux Documentation/virt/kvm/x86/msr.rst): the host keeps a record in guest memory from
// which the guest turns its counter into nanoseconds without an exit.

#include "clock.h"
#include "machine.h"
#include "text.h"

#define CPUID_HYPERVISOR 0x40000000
#define CPUID_KVM_FEATURES 0x40000001
#define KVM_FEATURE_CLOCKSOURCE2_BIT 3
#define MSR_KVM_WALL_CLOCK_NEW 0x4b564d00
#define MSR_KVM_SYSTEM_TIME_NEW 0x4b564d01
#define MSR_KVM_SYSTEM_TIME_ENABLE 1

#define NS_PER_SECOND 1000000000UL

// Where there is no KVM clock: only the length of a spin depends on it.
#define ASSUMED_TICKS_PER_US 2000

struct PACKED pvclock_vcpu_time_info {
    u32 version;
    u32 pad0;
    u64 tsc_timestamp;
    u64 system_time;
    u32 tsc_to_system_mul;
    signed char tsc_shift;
    u8 flags;
    u8 pad[2];
};
_Static_assert(sizeof(struct pvclock_vcpu_time_info) == 32, "pvclock ABI");

struct PACKED pvclock_wall_clock {
    u32 version;
    u32 sec;
    u32 nsec;
};
_Static_assert(sizeof(struct pvclock_wall_clock) == 12, "pvclock ABI");

static volatile ALIGNED(32) struct pvclock_vcpu_time_info system_clock;
static volatile ALIGNED(16) struct pvclock_wall_clock wall_clock;
static bool present;
static u64 started; // rdtsc

void clock_setup(void)
{
    started = rdtsc();
    struct cpuid id = cpuid(CPUID_HYPERVISOR);
    present = id.ebx == 0x4b4d564b && id.ecx == 0x564b4d56 && id.edx == 0x0000004d && // "KVMKVMKVM\0\0\0"
              (cpuid(CPUID_KVM_FEATURES).eax & (1U << KVM_FEATURE_CLOCKSOURCE2_BIT)) != 0;
    if (present) {
        wrmsr(MSR_KVM_SYSTEM_TIME_NEW, (u64)&system_clock | MSR_KVM_SYSTEM_TIME_ENABLE);
    }
}

static u64 shifted(u64 value, i32 shift)
{
    return shift < 0 ? value >> -shift : value << shift;
}

u64 clock_ticks_per_us(void)
{
    u32 mul = system_clock.tsc_to_system_mul;
    if (!present || mul == 0) {
        return ASSUMED_TICKS_PER_US;
    }
    u64 ticks = shifted((1000UL << 32) / mul, -system_clock.tsc_shift);
    return ticks == 0 ? 1 : ticks;
}

u64 clock_uptime_us(void)
{
    return (rdtsc() - started) / clock_ticks_per_us();
}

static u64 system_nanoseconds(void)
{
    for (;;) {
        u32 version = __atomic_load_n(&system_clock.version, __ATOMIC_ACQUIRE);
        u64 ticks = shifted(rdtsc() - system_clock.tsc_timestamp, system_clock.tsc_shift);
        u64 now = system_clock.system_time + (u64)(((unsigned __int128)ticks * system_clock.tsc_to_system_mul) >> 32);
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
        // Odd: the host is in the middle of an update.
        if ((version & 1) == 0 && version == system_clock.version) {
            return now;
        }
    }
}

u64 clock_wall_seconds(void)
{
    if (!present) {
        return 0;
    }
    // The host fills the record in when the register is written; it holds the time at which the system clock was zero.
    wrmsr(MSR_KVM_WALL_CLOCK_NEW, (u64)&wall_clock);
    return wall_clock.sec + (wall_clock.nsec + system_nanoseconds()) / NS_PER_SECOND;
}
