// SPDX-License-Identifier: Apache-2.0
//
// System calls and what little of a C library the agent needs. x86-64 only.
//
// Why no C library: the agent is to start quickly and be small, and a static one would bring vector instructions
// chosen by CPUID, which some guests may not use. Every call returns the kernel's value: an error is -errno.

#ifndef AGENT_SYSTEM_H
#define AGENT_SYSTEM_H

#include <asm/fcntl.h>
#include <asm/ioctls.h>
#include <asm/poll.h>
#include <asm/signal.h>
#include <asm/stat.h>
#include <asm/unistd.h>
#include <linux/errno.h>
#include <linux/types.h>
#include <stdbool.h>
#include <stddef.h>

typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;

static inline long syscall6(long number, long a, long b, long c, long d, long e, long f)
{
    long result;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;

    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

#define sys0(call) syscall6(__NR_##call, 0, 0, 0, 0, 0, 0)
#define sys1(call, a) syscall6(__NR_##call, (long)(a), 0, 0, 0, 0, 0)
#define sys2(call, a, b) syscall6(__NR_##call, (long)(a), (long)(b), 0, 0, 0, 0)
#define sys3(call, a, b, c) syscall6(__NR_##call, (long)(a), (long)(b), (long)(c), 0, 0, 0)
#define sys4(call, a, b, c, d) syscall6(__NR_##call, (long)(a), (long)(b), (long)(c), (long)(d), 0, 0)
#define sys5(call, a, b, c, d, e) syscall6(__NR_##call, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), 0)
#define sys6(call, a, b, c, d, e, f) \
    syscall6(__NR_##call, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))

// The kernel's headers give these to the C library's headers only, or in ones that do not go together.
#define AT_FDCWD (-100)
#define AT_SYMLINK_NOFOLLOW 0x100
#define AT_REMOVEDIR 0x200
#define AF_UNIX 1
#define AF_INET 2
#define AF_VSOCK 40
#define SOCK_STREAM 1
#define SOCK_DGRAM 2
#define SOCK_CLOEXEC O_CLOEXEC
#define SOCK_NONBLOCK O_NONBLOCK
#define SOL_SOCKET 1
#define SO_REUSEADDR 2
#define SO_LINGER 13
#define SO_RCVTIMEO 20
#define SO_SNDTIMEO 21
#define MSG_DONTWAIT 0x40
#define MSG_NOSIGNAL 0x4000
#define SHUT_WR 1
#define S_IFMT 0170000
#define S_IFDIR 0040000
#define S_IFREG 0100000
#define S_IFLNK 0120000
#define S_IFSOCK 0140000
#define WNOHANG 1
#define PR_SET_PDEATHSIG 1

#define PATH_BYTES 4096

size_t text_length(const char *text);
bool same_text(const char *a, const char *b);
// Whether `text` begins with the `count` bytes of `start`.
bool begins_with(const char *text, const char *start, size_t count);
void copy_bytes(void *to, const void *from, size_t count);
void move_bytes(void *to, const void *from, size_t count);
// Decimal; returns how many digits were written. `to` has room for 20.
size_t write_decimal(char *to, u64 value);
// Reads decimal digits up to `end` of the text or another character. False without a digit, or beyond 2^32 - 1.
bool read_decimal(const char *text, u32 *value);

u32 load_u32(const u8 *bytes);
u64 load_u64(const u8 *bytes);
void store_u32(u8 *bytes, u32 value);
void store_u64(u8 *bytes, u64 value);

// On standard error, which is the console in an init.
void say(const char *text);
// "tsvmm-agent: ", `what` and `which`, and the number of the error.
void say_error(const char *what, const char *which, long error);

// Retries what a signal interrupted.
long read_some(int fd, void *bytes, size_t count);
// The file as text with a NUL behind it, as far as it fits into `size` bytes. Returns its length, or -errno.
long read_text(const char *path, char *text, size_t size);
bool write_all(int fd, const void *bytes, size_t count);
void close_fd(int fd);
void sleep_seconds(u32 seconds);
// Ignores a signal or gives it back its default action. No handlers: they would need a trampoline.
void ignore_signal(int signal);
void default_signal(int signal);
_Noreturn void exit_process(int status);

int agent_main(int argc, char **argv, char **environment);

#endif
