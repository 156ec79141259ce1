// SPDX-License-Identifier: Apache-2.0
// Reads or writes a disk past the page cache, one request after the other, and says how long that took. For benchmarks.
//
//   disk-tool read|write sequential|random PATH BYTES COUNT
//
// COUNT requests of BYTES each (a multiple of 512, 1 MiB at most), from the beginning of the disk, and again from there
// at its end, or at random places. Writing ends with a flush, which is part of the time. Prints
//
//   disk-tool: requests=N bytes=N us=N
//
// Status: 0, or 1 with a message.
#include "mini.h"

#include <linux/fcntl.h>
#include <linux/time.h>
#include <linux/time_types.h>

#define BYTES_MAX (1024 * 1024)

static u8 buffer[BYTES_MAX] __attribute__((aligned(4096)));

static void fail(const char *what, long error)
{
	char text[128];
	char *to = put(put(text, "disk-tool: "), what);

	if (error < 0)
		to = put_number(put(to, ": errno-"), (u64)-error);
	*to++ = '\n';
	write_all(2, text, (size_t)(to - text));
	exit_program(1);
}

static u64 now_us(void)
{
	struct __kernel_timespec now;

	sys2(__NR_clock_gettime, CLOCK_MONOTONIC, &now);
	return (u64)now.tv_sec * 1000000 + (u64)now.tv_nsec / 1000;
}

static void report(u64 requests, u64 bytes, u64 us)
{
	char text[128];
	char *to = put_number(put(text, "disk-tool: requests="), requests);

	to = put_number(put(to, " bytes="), bytes);
	to = put_number(put(to, " us="), us);
	*to++ = '\n';
	write_all(1, text, (size_t)(to - text));
}

int program(int argc, char **argv, char **envp)
{
	int bad = argc != 6;
	int writing, random;
	u64 bytes, count, places, start, place = 0;
	u32 x = 1;
	long fd, size, done;

	(void)envp;
	if (bad)
		fail("usage: read|write sequential|random PATH BYTES COUNT", 0);
	writing = same(argv[1], "write");
	random = same(argv[2], "random");
	bad = (!writing && !same(argv[1], "read")) || (!random && !same(argv[2], "sequential"));
	bytes = number(argv[4], &bad);
	count = number(argv[5], &bad);
	if (bad || bytes == 0 || bytes % 512 != 0 || bytes > BYTES_MAX)
		fail("not an action, an order, or a number in bounds", 0);

	fd = sys3(__NR_open, argv[3], (writing ? O_WRONLY : O_RDONLY) | O_DIRECT, 0);
	if (fd < 0)
		fail(argv[3], fd);
	size = sys3(__NR_lseek, fd, 0, 2 /* SEEK_END */);
	if (size < (long)bytes)
		fail("smaller than a request", size);
	places = (u64)size / bytes;
	memset(buffer, 0xa5, bytes);

	start = now_us();
	for (u64 i = 0; i < count; i++) {
		if (random) {
			x ^= x << 13;
			x ^= x >> 17;
			x ^= x << 5;
			place = x;
		} else {
			place = i;
		}
		done = sys4(writing ? __NR_pwrite64 : __NR_pread64, fd, buffer, bytes, place % places * bytes);
		if (done != (long)bytes)
			fail("request", done);
	}
	if (writing) {
		done = sys1(__NR_fsync, fd);
		if (done < 0)
			fail("fsync", done);
	}
	report(count, count * bytes, now_us() - start);
	return 0;
}
