// SPDX-License-Identifier: Apache-2.0
// Memory and text helpers: what a C library would bring, as far as it is needed here.

#ifndef TEXT_H
#define TEXT_H

#include "types.h"

void *memcpy(void *to, const void *from, size_t count);
void *memset(void *to, int byte, size_t count);
int memcmp(const void *a, const void *b, size_t count);

size_t text_length(const char *text);
bool text_equal(const char *a, const char *b);

// If text starts with prefix: what follows it, else NULL.
const char *text_after(const char *text, const char *prefix);

// Parse an unsigned number, decimal or 0x and hexadecimal. Returns what follows it, or NULL if there is none or it
// does not fit 64 bits.
const char *text_number(const char *text, u64 *value);

// A text under construction. What does not fit is cut off.
struct builder {
    char *bytes;
    u32 size;
    u32 length;
};

void add_bytes(struct builder *b, const char *bytes, size_t count);
void add(struct builder *b, const char *text);
void add_decimal(struct builder *b, u64 value);
// Padded with zeros on the left to at least this many digits.
void add_padded(struct builder *b, u64 value, u32 digits);
void add_hex(struct builder *b, u64 value);

#endif
