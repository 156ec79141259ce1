// SPDX-License-Identifier: Apache-2.0
//
// The end of the line for unexpected exceptions: say what happened, then triple-fault, so that the monitor reports a
// crashed guest rather than a silent one.

#include "machine.h"
#include "serial.h"
#include "text.h"

_Noreturn void panic(u64 vector, u64 error, u64 rip, u64 cr2, u64 cs, u64 rsp);

_Noreturn void panic(u64 vector, u64 error, u64 rip, u64 cr2, u64 cs, u64 rsp)
{
    char bytes[200];
    struct builder b = {bytes, sizeof bytes, 0};
    add(&b, "\r\ntsvmm guest: exception ");
    add_decimal(&b, vector);
    add(&b, ", error 0x");
    add_hex(&b, error);
    add(&b, " at 0x");
    add_hex(&b, rip);
    add(&b, ", cr2 0x");
    add_hex(&b, cr2);
    add(&b, ", CPL ");
    add_decimal(&b, cs & 3);
    add(&b, ", rsp 0x");
    add_hex(&b, rsp);
    add(&b, "\r\n");
    serial_write(bytes, b.length);
    crash();
}
