// SPDX-License-Identifier: Apache-2.0
// Memory beyond the image: permanent allocations first, the rest in equal blocks.

#ifndef MEMORY_H
#define MEMORY_H

#include "types.h"

#define BLOCK_SIZE 65536U

void memory_setup(u64 start, u64 end);
u64 memory_left(void);
// Never freed, not cleared (so that a page nobody needs is never touched), aligned to a power of two; NULL when there is
// not enough.
void *memory_take(u64 size, u64 align);

// BLOCK_SIZE bytes, or NULL.
void *block_take(void);
void block_free(void *block);

#endif
