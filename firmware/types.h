// SPDX-License-Identifier: Apache-2.0
// Integer types and the few macros that every file wants.

#ifndef TYPES_H
#define TYPES_H

#include <stdbool.h>
#include <stddef.h>

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long u64;
typedef int i32;

_Static_assert(sizeof(u64) == 8, "LP64");

#define PACKED __attribute__((packed))
#define ALIGNED(n) __attribute__((aligned(n)))
#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

static inline u32 min_u32(u32 a, u32 b)
{
    return a < b ? a : b;
}

#endif
