// SPDX-License-Identifier: Apache-2.0
//
// The poll loop. It runs in CPL 3 with interrupts off: as long as there is work it polls, then spins for a short while,
// and only then asks for interrupts and sleeps in CPL 0. Nothing ticks.

#include "boot.h"
#include "clock.h"
#include "connection.h"
#include "console.h"
#include "machine.h"
#include "memory.h"
#include "serial.h"
#include "services.h"
#include "stats.h"
#include "vsock.h"

// While the services keep the loop busy, no interrupt tells of a key. Then the port is asked this often.
#define BUSY_CONSOLE_US 10000

static struct boot_info boot;
static bool has_vsock;
static u64 spin_ticks;

// Wait a little for more work: it is often on its way, and sleeping costs more. Returns whether some came.
static bool spin(void)
{
    u64 start = rdtsc();
    do {
        if (vsock_has_work()) {
            return true;
        }
        pause();
    } while (rdtsc() - start < spin_ticks);
    return false;
}

static bool serve(void)
{
    bool busy = vsock_reap();
    busy |= vsock_receive();
    busy |= connections_send();
    busy |= vsock_events();
    return busy;
}

// Sleep until an interrupt. Returns whether the device's was among them.
static bool sleep(void)
{
    if (has_vsock) {
        if (!vsock_arm(connections_want_tx())) {
            vsock_disarm();
            return false;
        }
    }
    stats.idles++;
    idle();
    if (!has_vsock) {
        return false;
    }
    vsock_disarm();
    bool interrupted = irq_flags.vsock != 0;
    if (interrupted) {
        irq_flags.vsock = 0;
        stats.interrupts++;
        vsock_interrupted();
    }
    return interrupted;
}

static _Noreturn void run(void)
{
    u64 console_ticks = BUSY_CONSOLE_US * clock_ticks_per_us();
    u64 console_looked = rdtsc();
    bool was_busy = false, woken_by_device = false, keys_left = false;
    for (;;) {
        bool busy = has_vsock && serve();
        if (woken_by_device && !busy && !vsock_check()) {
            has_vsock = false;
            console_lost_vsock();
        }
        woken_by_device = false;
        if (irq_flags.serial != 0 || keys_left || (busy && rdtsc() - console_looked > console_ticks)) {
            irq_flags.serial = 0;
            keys_left = console_poll();
            console_looked = rdtsc();
            // A command may have left something to send.
            busy |= keys_left;
        }
        if (busy) {
            was_busy = true;
        } else if (was_busy && has_vsock && spin()) {
            continue;
        } else {
            was_busy = false;
            woken_by_device = sleep();
        }
    }
}

_Noreturn void main(const u8 *boot_params);

_Noreturn void main(const u8 *boot_params)
{
    boot_read(boot_params, &boot);
    if (boot.bench_ports) {
        port_bench();
    }
    memory_setup(boot.pool_start, boot.pool_end);
    interrupts_setup();
    clock_setup();
    spin_ticks = boot.spin_us * clock_ticks_per_us();
    has_vsock = vsock_start(&boot);
    if (has_vsock) {
        connections_setup();
        services_setup(boot.memory_bytes);
    }
    outb(PORT_DEBUG, READY_MARK);
    serial_setup();
    console_start(&boot, has_vsock);
    run();
}
