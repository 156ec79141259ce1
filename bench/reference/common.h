// SPDX-License-Identifier: Apache-2.0
// What the reference programs share: calls that must not fail, and a clock.

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define CHECK(call)                                                                                                    \
    ({                                                                                                                 \
        long result_ = (long)(call);                                                                                   \
        if (result_ < 0) {                                                                                             \
            perror(#call);                                                                                             \
            exit(1);                                                                                                   \
        }                                                                                                              \
        result_;                                                                                                       \
    })

// Seconds, from an arbitrary start.
static inline double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}
