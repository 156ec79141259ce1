// SPDX-License-Identifier: Apache-2.0
// Seconds since 1970 as date and time of day, UTC.

#ifndef CALENDAR_H
#define CALENDAR_H

#include "types.h"

struct date_time {
    u64 year;
    u32 month;   // 1 to 12
    u32 day;     // 1 to 31
    u32 weekday; // 0: Sunday
    u32 hour;
    u32 minute;
    u32 second;
};

struct date_time calendar(u64 seconds);

#endif
