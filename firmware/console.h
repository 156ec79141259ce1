// SPDX-License-Identifier: Apache-2.0
// The command line on the serial port.

#ifndef CONSOLE_H
#define CONSOLE_H

#include "boot.h"
#include "connection.h"

// Print the banner and the first prompt.
void console_start(const struct boot_info *boot, bool has_vsock);
// Take what was typed. Returns whether there was anything. Costs an exit: call when the port has interrupted.
bool console_poll(void);
// What takes a connection to a port that the user listens at. NULL: nobody listens there.
const struct service *console_service_at(u32 port);
// The vsock device is gone.
void console_lost_vsock(void);

#endif
