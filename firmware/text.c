// SPDX-License-Identifier: Apache-2.0

#include "text.h"

// The string instructions are the fast way on every processor that KVM runs on, and the small one.
void *memcpy(void *to, const void *from, size_t count)
{
    void *start = to;
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
    return start;
}

void *memset(void *to, int byte, size_t count)
{
    void *start = to;
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(count) : "a"(byte) : "memory");
    return start;
}

int memcmp(const void *a, const void *b, size_t count)
{
    const u8 *x = a, *y = b;
    for (; count != 0; x++, y++, count--) {
        if (*x != *y) {
            return *x < *y ? -1 : 1;
        }
    }
    return 0;
}

size_t text_length(const char *text)
{
    size_t length = 0;
    while (text[length] != '\0') {
        length++;
    }
    return length;
}

bool text_equal(const char *a, const char *b)
{
    while (*a != '\0' && *a == *b) {
        a++;
        b++;
    }
    return *a == *b;
}

const char *text_after(const char *text, const char *prefix)
{
    for (; *prefix != '\0'; text++, prefix++) {
        if (*text != *prefix) {
            return NULL;
        }
    }
    return text;
}

static i32 digit_value(char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

const char *text_number(const char *text, u64 *value)
{
    u32 base = 10;
    if (text[0] == '0' && (text[1] | 0x20) == 'x') {
        base = 16;
        text += 2;
    }
    const char *first = text;
    u64 result = 0;
    for (;; text++) {
        i32 digit = digit_value(*text);
        if (digit < 0 || (u32)digit >= base) {
            break;
        }
        if (result > (~0UL - (u32)digit) / base) {
            return NULL;
        }
        result = result * base + (u32)digit;
    }
    *value = result;
    return text == first ? NULL : text;
}

void add_bytes(struct builder *b, const char *bytes, size_t count)
{
    if (count > b->size - b->length) {
        count = b->size - b->length;
    }
    memcpy(b->bytes + b->length, bytes, count);
    b->length += count;
}

void add(struct builder *b, const char *text)
{
    add_bytes(b, text, text_length(text));
}

static void add_number(struct builder *b, u64 value, u32 base, u32 digits)
{
    char reversed[20];
    u32 count = 0;
    do {
        reversed[count++] = "0123456789abcdef"[value % base];
        value /= base;
    } while (value != 0 || count < digits);
    while (count != 0) {
        add_bytes(b, &reversed[--count], 1);
    }
}

void add_decimal(struct builder *b, u64 value)
{
    add_number(b, value, 10, 1);
}

void add_padded(struct builder *b, u64 value, u32 digits)
{
    add_number(b, value, 10, digits);
}

void add_hex(struct builder *b, u64 value)
{
    add_number(b, value, 16, 1);
}
