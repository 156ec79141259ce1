// SPDX-License-Identifier: Apache-2.0
// The few system calls that init.c, vsock-tool.c and disk-tool.c need, without a C library, and numbers as text.
//
// Why not glibc: on the machines where the tests run, guest kernel mode is emulated at about a
// millisecond per thousand instructions, so the page faults, relocations and start-up system calls
// of a static glibc program cost as much as the work these programs do. Without it a program
// of a few KiB starts in a fraction of the time, and never touches AVX (see README.md).
//
// x86-64 only. Every call returns the kernel's value: an error is -errno.
#ifndef TSVMM_MINI_H
#define TSVMM_MINI_H

#include <asm/unistd.h>
#include <linux/types.h>

typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;
typedef unsigned long size_t;

static inline long syscall6(long nr, long a, long b, long c, long d, long e, long f)
{
	long ret;
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;

	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return ret;
}

#define sys0(nr) syscall6(nr, 0, 0, 0, 0, 0, 0)
#define sys1(nr, a) syscall6(nr, (long)(a), 0, 0, 0, 0, 0)
#define sys2(nr, a, b) syscall6(nr, (long)(a), (long)(b), 0, 0, 0, 0)
#define sys3(nr, a, b, c) syscall6(nr, (long)(a), (long)(b), (long)(c), 0, 0, 0)
#define sys4(nr, a, b, c, d) syscall6(nr, (long)(a), (long)(b), (long)(c), (long)(d), 0, 0)
#define sys5(nr, a, b, c, d, e) syscall6(nr, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), 0)
#define sys6(nr, a, b, c, d, e, f) \
	syscall6(nr, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))

// gcc may turn loops into calls of these even in freestanding code, so they must exist.
__attribute__((used)) void *memcpy(void *to, const void *from, size_t n)
{
	void *start = to;

	__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
	return start;
}

__attribute__((used)) void *memset(void *to, int byte, size_t n)
{
	void *start = to;

	__asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(byte) : "memory");
	return start;
}

static inline size_t length(const char *s)
{
	size_t n = 0;

	while (s[n] != '\0')
		n++;
	return n;
}

static inline int same(const char *a, const char *b)
{
	while (*a != '\0' && *a == *b) {
		a++;
		b++;
	}
	return *a == *b;
}

static inline void exit_program(int status)
{
	for (;;)
		sys1(__NR_exit_group, status);
}

// Writes everything or gives up on an error: there is nobody left to tell.
static inline void write_all(int fd, const char *data, size_t n)
{
	while (n > 0) {
		long done = sys3(__NR_write, fd, data, n);

		if (done == -4 /* EINTR */)
			continue;
		if (done <= 0)
			return;
		data += done;
		n -= (size_t)done;
	}
}

// `*bad` is set when it is none.
static inline u64 number(const char *text, int *bad)
{
	u64 value = 0;

	*bad |= *text == '\0';
	for (; *text != '\0'; text++) {
		*bad |= *text < '0' || *text > '9';
		value = value * 10 + (u64)(*text - '0');
	}
	return value;
}

// The two that follow return the end of what they have written, which is not terminated.
static inline char *put(char *to, const char *text)
{
	size_t n = length(text);

	memcpy(to, text, n);
	return to + n;
}

static inline char *put_number(char *to, u64 value)
{
	char digits[20];
	unsigned n = 0;

	do {
		digits[n++] = (char)('0' + value % 10);
		value /= 10;
	} while (value > 0);
	while (n > 0)
		*to++ = digits[--n];
	return to;
}

int program(int argc, char **argv, char **envp);

__attribute__((used, noreturn)) void start_c(long *stack)
{
	int argc = (int)stack[0];
	char **argv = (char **)(stack + 1);

	exit_program(program(argc, argv, argv + argc + 1));
	__builtin_unreachable();
}

__asm__(".globl _start\n"
	"_start:\n"
	"\txor %ebp, %ebp\n"
	"\tmov %rsp, %rdi\n"
	"\tand $-16, %rsp\n"
	"\tcall start_c\n");

#endif
