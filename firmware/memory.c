// SPDX-License-Identifier: Apache-2.0

#include "memory.h"

static u64 next;
static u64 limit;

// Freed blocks, the last one freed first: it is the one still in the caches.
struct free_block {
    struct free_block *next;
};
static struct free_block *free_blocks;

void memory_setup(u64 start, u64 end)
{
    next = start;
    limit = end;
}

u64 memory_left(void)
{
    return limit - next;
}

void *memory_take(u64 size, u64 align)
{
    u64 start = (next + align - 1) & ~(align - 1);
    if (start > limit || size > limit - start) {
        return NULL;
    }
    next = start + size;
    return (void *)start;
}

void *block_take(void)
{
    struct free_block *block = free_blocks;
    if (block == NULL) {
        return memory_take(BLOCK_SIZE, 4096);
    }
    free_blocks = block->next;
    return block;
}

void block_free(void *block)
{
    struct free_block *freed = block;
    freed->next = free_blocks;
    free_blocks = freed;
}
