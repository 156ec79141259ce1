// SPDX-License-Identifier: Apache-2.0
// The services on vsock ports, named and numbered after the classical ones.

#ifndef SERVICES_H
#define SERVICES_H

#include "connection.h"

extern const struct service services[];
extern const u32 service_count;

// Take memory. Call once, before the rings use it up.
void services_setup(void);
// NULL: nobody listens there.
const struct service *service_at(u32 port);

#endif
