// SPDX-License-Identifier: Apache-2.0
// What the reference programs share: calls that must not fail, a clock, and numbers that look random.

#include <stdint.h>
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

// xorshift32: the same numbers in every run.
static inline uint32_t next_random(void)
{
    static uint32_t state = 1;
    state ^= state << 13;
    state ^= state >> 17;
    state ^= state << 5;
    return state;
}
