// SPDX-License-Identifier: Apache-2.0
// Memory beyond the image: permanent allocations first, the rest in blocks of two sizes.

#ifndef MEMORY_H
#define MEMORY_H

#include "types.h"

enum block_kind {
    BLOCK_SMALL,
    BLOCK_LARGE,
};
#define BLOCK_SIZE(kind) ((kind) == BLOCK_LARGE ? 262144U : 65536U)

void memory_setup(u64 start, u64 end);
u64 memory_left(void);
// Never freed, not cleared (so that a page nobody needs is never touched), aligned to a power of two; NULL when there
// is not enough.
void *memory_take(u64 size, u64 align);

// NULL: none left, or only small ones.
void *block_take(enum block_kind kind);
void block_free(void *block, enum block_kind kind);

#endif
