// SPDX-License-Identifier: Apache-2.0
// The command line on the serial port.

#ifndef CONSOLE_H
#define CONSOLE_H

#include "boot.h"

// Print the banner and the first prompt.
void console_start(const struct boot_info *boot, bool has_vsock);
// Take what was typed. Returns whether there was anything. Costs an exit: call when the port has interrupted.
bool console_poll(void);
// The vsock device is gone.
void console_lost_vsock(void);

#endif
