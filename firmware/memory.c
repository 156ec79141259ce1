// SPDX-License-Identifier: Apache-2.0

#include "memory.h"

static u64 next;
static u64 limit;

// Large blocks are made only while this much is left, so that it takes many connections to run out of small ones.
static u64 reserve;

// Freed blocks, the last one freed first: it is the one still in the caches.
struct free_block {
    struct free_block *next;
};
static struct free_block *free_blocks[2];

void memory_setup(u64 start, u64 end)
{
    next = start;
    limit = end;
    reserve = (end - start) / 2;
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

void block_free(void *block, enum block_kind kind)
{
    struct free_block *freed = block;
    freed->next = free_blocks[kind];
    free_blocks[kind] = freed;
}

static void *take_freed(enum block_kind kind)
{
    struct free_block *block = free_blocks[kind];
    if (block != NULL) {
        free_blocks[kind] = block->next;
    }
    return block;
}

void *block_take(enum block_kind kind)
{
    void *block = take_freed(kind);
    if (block != NULL) {
        return block;
    }
    if (kind == BLOCK_SMALL || memory_left() > reserve) {
        block = memory_take(BLOCK_SIZE(kind), 4096);
    }
    if (block == NULL && kind == BLOCK_SMALL) {
        // Break up a large one, for good.
        char *large = block = take_freed(BLOCK_LARGE);
        for (u32 part = BLOCK_SIZE(BLOCK_SMALL); large != NULL && part < BLOCK_SIZE(BLOCK_LARGE);
             part += BLOCK_SIZE(BLOCK_SMALL)) {
            block_free(large + part, BLOCK_SMALL);
        }
    }
    return block;
}
