// SPDX-License-Identifier: Apache-2.0
// The serial console, COM1.

#ifndef SERIAL_H
#define SERIAL_H

#include "types.h"

// Let the port interrupt when a character comes in.
void serial_setup(void);
void serial_write(const char *bytes, size_t count);
void serial_print(const char *text);
void serial_put(char c);
// The next character typed, or -1. Each call is an exit or two: ask only when there is reason to.
i32 serial_read(void);

#endif
