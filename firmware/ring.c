// SPDX-License-Identifier: Apache-2.0

#include "ring.h"
#include "text.h"

#define POSITION(r, cursor) ((cursor) & ((r)->size - 1))

#define MAX_RECORDS (BLOCK_SIZE(BLOCK_SMALL) / sizeof(u32))
#define RECORD_LENGTH(record) ((record) & 0xffffff)
#define RECORD_FLAGS(record) ((record) >> 24)
#define RECORD(length, flags) ((length) | (flags) << 24)

bool ring_open(struct ring *r, bool with_records)
{
    *r = (struct ring){.bytes = block_take(BLOCK_LARGE), .kind = BLOCK_LARGE};
    if (r->bytes == NULL) {
        r->kind = BLOCK_SMALL;
        r->bytes = block_take(BLOCK_SMALL);
    }
    r->size = BLOCK_SIZE(r->kind);
    if (with_records && r->bytes != NULL) {
        r->records = block_take(BLOCK_SMALL);
    }
    if (r->bytes == NULL || (with_records && r->records == NULL)) {
        ring_close(r);
        return false;
    }
    return true;
}

void ring_close(struct ring *r)
{
    if (r->bytes != NULL) {
        block_free(r->bytes, r->kind);
    }
    if (r->records != NULL) {
        block_free(r->records, BLOCK_SMALL);
    }
    *r = (struct ring){0};
}

u32 ring_used(const struct ring *r)
{
    return r->in - r->done;
}

bool ring_write(struct ring *r, const u8 *bytes, u32 length, u32 flags)
{
    if (length > r->size - ring_used(r)) {
        return false;
    }
    if (r->records != NULL) {
        if (r->record_in - r->record_out == MAX_RECORDS) {
            return false;
        }
        r->records[r->record_in++ % MAX_RECORDS] = RECORD(length, flags);
    }
    u32 first = min_u32(length, r->size - POSITION(r, r->in));
    memcpy(r->bytes + POSITION(r, r->in), bytes, first);
    memcpy(r->bytes, bytes + first, length - first);
    r->in += length;
    return true;
}

bool ring_peek(const struct ring *r, struct piece *piece)
{
    u32 length = r->in - r->sent;
    piece->flags = 0;
    if (r->records != NULL) {
        if (r->record_in == r->record_out) {
            return false;
        }
        u32 record = r->records[r->record_out % MAX_RECORDS];
        length = RECORD_LENGTH(record) - r->record_sent;
        piece->flags = RECORD_FLAGS(record);
    } else if (length == 0) {
        return false;
    }
    u32 contiguous = r->size - POSITION(r, r->sent);
    if (length > contiguous) {
        // The flags belong to the end of the record.
        length = contiguous;
        piece->flags = 0;
    }
    piece->bytes = r->bytes + POSITION(r, r->sent);
    piece->length = length;
    return true;
}

void ring_advance(struct ring *r, u32 length)
{
    r->sent += length;
    if (r->records != NULL) {
        r->record_sent += length;
        if (r->record_sent == RECORD_LENGTH(r->records[r->record_out % MAX_RECORDS])) {
            r->record_out++;
            r->record_sent = 0;
        }
    }
}

void ring_release(struct ring *r, u32 length)
{
    r->done += length;
    if (r->done == r->in) {
        // Begin again at the start: short exchanges then touch one page, not sixteen in turn.
        r->in = r->sent = r->done = 0;
    }
}
