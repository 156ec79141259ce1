// SPDX-License-Identifier: Apache-2.0

#include "calendar.h"

#define SECONDS_A_DAY 86400
// 1 January 1970 was a Thursday.
#define FIRST_WEEKDAY 4

// The proleptic Gregorian calendar, counting years from 1 March so that the leap day comes last; 146097 days are 400
// years.
struct date_time calendar(u64 seconds)
{
    u64 days = seconds / SECONDS_A_DAY;
    u32 second = (u32)(seconds % SECONDS_A_DAY);
    u64 shifted = days + 719468;
    u64 era = shifted / 146097;
    u64 day_of_era = shifted % 146097;
    u64 year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365;
    u64 day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    u32 month_from_march = (u32)((5 * day_of_year + 2) / 153);
    u32 month = month_from_march < 10 ? month_from_march + 3 : month_from_march - 9;
    return (struct date_time){
        .year = era * 400 + year_of_era + (month <= 2),
        .month = month,
        .day = (u32)day_of_year - (153 * month_from_march + 2) / 5 + 1,
        .weekday = (u32)((days + FIRST_WEEKDAY) % 7),
        .hour = second / 3600,
        .minute = second / 60 % 60,
        .second = second % 60,
    };
}
