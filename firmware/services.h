// SPDX-License-Identifier: Apache-2.0
// The services on vsock ports, named and numbered after the classical ones.

#ifndef SERVICES_H
#define SERVICES_H

#include "connection.h"
#include "text.h"

extern const struct service services[];
extern const u32 service_count;

// Take memory. Call once, before the rings use it up.
void services_setup(u64 memory_bytes);
// NULL: nobody listens there.
const struct service *service_at(u32 port);
// Their names and ports, as people read them.
void add_services(struct builder *b);

// After so many bytes the character generator's pattern begins again.
#define CHARGEN_PERIOD (95 * (72 + 2))
// The pattern from a position below that on: at least VSOCK_MAX_PAYLOAD bytes that stay as they are.
const u8 *chargen_bytes(u32 phase);

#endif
