// SPDX-License-Identifier: Apache-2.0
// A byte ring between receiving and sending: bytes are written in, sent from where they lie, and released when the
// device has sent them. It can keep record boundaries.

#ifndef RING_H
#define RING_H

#include "memory.h"
#include "types.h"

#define RING_MIN_SIZE BLOCK_SIZE(BLOCK_SMALL)

// Cursors run free and are masked on access: done <= sent <= in <= done + size.
struct ring {
    u8 *bytes;
    enum block_kind kind;
    u32 size; // a power of two
    u32 in;
    u32 sent;
    u32 done;
    // With record boundaries: one word for each write, else NULL.
    u32 *records;
    u32 record_in;
    u32 record_out;
    u32 record_sent; // bytes of the first record that are sent already
};

// Something to send: contiguous bytes, and packet flags that go with the last of them.
struct piece {
    const u8 *bytes;
    u32 length;
    u32 flags;
};

// As large as memory has it now. False: out of memory.
bool ring_open(struct ring *r, bool with_records);
void ring_close(struct ring *r);
u32 ring_used(const struct ring *r);
// False: no room, nothing written.
bool ring_write(struct ring *r, const u8 *bytes, u32 length, u32 flags);
// The next piece to send, if any.
bool ring_peek(const struct ring *r, struct piece *piece);
// That many bytes of the last piece were sent.
void ring_advance(struct ring *r, u32 length);
// That many bytes, in the order of sending, are not needed any more.
void ring_release(struct ring *r, u32 length);

#endif
