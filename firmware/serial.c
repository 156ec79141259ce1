// SPDX-License-Identifier: Apache-2.0
//
// A 16550 at COM1. The port is emulated: it transmits at once, so nobody waits for the line status before writing.

#include "serial.h"
#include "machine.h"
#include "text.h"

#define COM1 0x3f8
#define COM1_GSI 4
#define UART_DATA (COM1 + 0)
#define UART_IER (COM1 + 1)
#define UART_IER_RECEIVED 0x01
#define UART_LCR (COM1 + 3)
#define UART_LCR_8N1 0x03
#define UART_MCR (COM1 + 4)
#define UART_MCR_DTR 0x01
#define UART_MCR_RTS 0x02
// On a PC the interrupt line passes through a gate that OUT2 opens.
#define UART_MCR_OUT2 0x08
#define UART_LSR (COM1 + 5)
#define UART_LSR_DATA_READY 0x01
#define UART_SCR (COM1 + 7)
#define SCR_PROBE 0x5a

// Where nothing answers, a port reads as all ones: keys without end.
static bool absent;

void serial_setup(void)
{
    outb(UART_SCR, SCR_PROBE);
    absent = inb(UART_SCR) != SCR_PROBE;
    if (absent) {
        return;
    }
    interrupts_route(COM1_GSI, VECTOR_SERIAL);
    outb(UART_LCR, UART_LCR_8N1);
    outb(UART_MCR, UART_MCR_DTR | UART_MCR_RTS | UART_MCR_OUT2);
    outb(UART_IER, UART_IER_RECEIVED);
}

void serial_write(const char *bytes, size_t count)
{
    if (!absent && count != 0) {
        write_port(UART_DATA, bytes, count);
    }
}

void serial_print(const char *text)
{
    serial_write(text, text_length(text));
}

void serial_put(char c)
{
    if (!absent) {
        outb(UART_DATA, (u8)c);
    }
}

i32 serial_read(void)
{
    return !absent && (inb(UART_LSR) & UART_LSR_DATA_READY) != 0 ? inb(UART_DATA) : -1;
}
