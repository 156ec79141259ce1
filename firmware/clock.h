// SPDX-License-Identifier: Apache-2.0
// Time: the processor's counter, and the wall clock that KVM provides.

#ifndef CLOCK_H
#define CLOCK_H

#include "types.h"

void clock_setup(void);
// Counter ticks (rdtsc) in a microsecond, at least 1.
u64 clock_ticks_per_us(void);
// Since clock_setup.
u64 clock_uptime_us(void);
// Seconds since 1970 UTC, or 0 if the host offers no clock.
u64 clock_wall_seconds(void);

#endif
