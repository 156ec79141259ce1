// SPDX-License-Identifier: Apache-2.0
//
// The entry of the program, and the few functions of a C library that are needed.

#include "system.h"

// gcc may turn loops into calls of these even in freestanding code, so they must exist.
__attribute__((used)) void *memcpy(void *to, const void *from, size_t count)
{
    void *start = to;
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
    return start;
}

__attribute__((used)) void *memset(void *to, int byte, size_t count)
{
    void *start = to;
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(count) : "a"(byte) : "memory");
    return start;
}

size_t text_length(const char *text)
{
    size_t count = 0;
    while (text[count] != '\0')
        count++;
    return count;
}

bool same_text(const char *a, const char *b)
{
    while (*a != '\0' && *a == *b) {
        a++;
        b++;
    }
    return *a == *b;
}

bool begins_with(const char *text, const char *start, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (text[i] == '\0' || text[i] != start[i])
            return false;
    }
    return true;
}

void copy_bytes(void *to, const void *from, size_t count)
{
    memcpy(to, from, count);
}

// Towards lower addresses only.
void move_bytes(void *to, const void *from, size_t count)
{
    memcpy(to, from, count);
}

size_t write_decimal(char *to, u64 value)
{
    char digits[20];
    size_t count = 0;
    do {
        digits[count++] = (char)('0' + value % 10);
        value /= 10;
    } while (value != 0);
    for (size_t i = 0; i < count; i++)
        to[i] = digits[count - 1 - i];
    return count;
}

bool read_decimal(const char *text, u32 *value)
{
    u64 sum = 0;
    if (*text == '\0')
        return false;
    for (; *text != '\0'; text++) {
        if (*text < '0' || *text > '9')
            return false;
        sum = sum * 10 + (u64)(*text - '0');
        if (sum > 0xffffffffU)
            return false;
    }
    *value = (u32)sum;
    return true;
}

// x86-64 is little-endian, as the protocol is.

u32 load_u32(const u8 *bytes)
{
    u32 value;
    memcpy(&value, bytes, sizeof value);
    return value;
}

u64 load_u64(const u8 *bytes)
{
    u64 value;
    memcpy(&value, bytes, sizeof value);
    return value;
}

void store_u32(u8 *bytes, u32 value)
{
    memcpy(bytes, &value, sizeof value);
}

void store_u64(u8 *bytes, u64 value)
{
    memcpy(bytes, &value, sizeof value);
}

long read_some(int fd, void *bytes, size_t count)
{
    long got;
    do
        got = sys3(read, fd, bytes, count);
    while (got == -EINTR);
    return got;
}

long read_text(const char *path, char *text, size_t size)
{
    int fd = (int)sys3(open, path, O_RDONLY | O_CLOEXEC, 0);
    if (fd < 0)
        return fd;
    long length = 0, got;
    while ((got = read_some(fd, text + length, size - 1 - (size_t)length)) > 0)
        length += got;
    close_fd(fd);
    text[length] = '\0';
    return length;
}

bool write_all(int fd, const void *bytes, size_t count)
{
    const u8 *next = bytes;
    while (count > 0) {
        long done = sys3(write, fd, next, count);
        if (done == -EINTR)
            continue;
        if (done <= 0)
            return false;
        next += done;
        count -= (size_t)done;
    }
    return true;
}

void say(const char *text)
{
    write_all(2, text, text_length(text));
}

void say_error(const char *what, const char *which, long error)
{
    char number[21];
    number[write_decimal(number, (u64)-error)] = '\0';
    say("tsvmm-agent: ");
    say(what);
    say(which);
    say(": error ");
    say(number);
    say("\n");
}

void close_fd(int fd)
{
    if (fd >= 0)
        sys1(close, fd);
}

void sleep_seconds(u32 seconds)
{
    struct {
        long seconds, nanoseconds;
    } time = {(long)seconds, 0};
    sys2(nanosleep, &time, 0);
}

static void set_action(int signal, __sighandler_t handler)
{
    struct sigaction action = {0};
    action.sa_handler = handler;
    sys4(rt_sigaction, signal, &action, 0, sizeof(u64));
}

void ignore_signal(int signal)
{
    set_action(signal, SIG_IGN);
}

void default_signal(int signal)
{
    set_action(signal, SIG_DFL);
}

_Noreturn void exit_process(int status)
{
    for (;;)
        sys1(exit_group, status);
}

__attribute__((used, noreturn)) void start_c(long *stack)
{
    int argc = (int)stack[0];
    char **argv = (char **)(stack + 1);
    exit_process(agent_main(argc, argv, argv + argc + 1));
}

__asm__(".globl _start\n"
        "_start:\n"
        "    xor %ebp, %ebp\n"
        "    mov %rsp, %rdi\n"
        "    and $-16, %rsp\n"
        "    call start_c\n");
