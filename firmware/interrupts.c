// SPDX-License-Identifier: Apache-2.0
//
// Interrupt controllers: the two 8259s are silenced, the I/O APIC delivers to the local APIC of this one processor.
//
// xAPIC registers suffice: one end-of-interrupt per wake-up is all the traffic there is.

#include "machine.h"

#define PIC_MASTER_DATA 0x21
#define PIC_SLAVE_DATA 0xa1

#define LAPIC_ID 0xfee00020
#define LAPIC_SVR 0xfee000f0
#define LAPIC_SVR_ENABLE 0x100
#define LAPIC_LVT_LINT0 0xfee00350
#define LAPIC_LVT_MASKED 0x10000

#define IOAPIC_INDEX 0xfec00000
#define IOAPIC_DATA 0xfec00010
#define IOAPIC_PINS 24
#define IOAPIC_REDIRECTION_LOW(pin) (0x10 + 2 * (pin))
#define IOAPIC_REDIRECTION_HIGH(pin) (0x11 + 2 * (pin))

void interrupts_setup(void)
{
    outb(PIC_MASTER_DATA, 0xff);
    outb(PIC_SLAVE_DATA, 0xff);
    mmio_write(LAPIC_LVT_LINT0, LAPIC_LVT_MASKED);
    mmio_write(LAPIC_SVR, LAPIC_SVR_ENABLE | VECTOR_SPURIOUS);
}

// Deliver a line as an edge, active high (the all-zero mode bits), to this processor.
bool interrupts_route(u32 gsi, u8 vector)
{
    if (gsi >= IOAPIC_PINS) {
        return false;
    }
    u32 destination = mmio_read(LAPIC_ID) & 0xff000000;
    mmio_write(IOAPIC_INDEX, IOAPIC_REDIRECTION_HIGH(gsi));
    mmio_write(IOAPIC_DATA, destination);
    mmio_write(IOAPIC_INDEX, IOAPIC_REDIRECTION_LOW(gsi));
    mmio_write(IOAPIC_DATA, vector);
    return true;
}
