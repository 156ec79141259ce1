// SPDX-License-Identifier: Apache-2.0
// What a disk's thread gains or loses by io_uring: the same random reads of one file by preadv, one call each, and through
// a ring of io_uring, DEPTH at once and one io_uring_enter for each batch of completions.
//
//   block-engine FILE preadv|uring cached|direct BYTES DEPTH SECONDS      prints requests a second, or "none"
//
// "none" is a kernel (or a container's filter) without io_uring.

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "common.h"

struct ring {
    int fd;
    uint32_t *sq_tail, *sq_array, *cq_head, *cq_tail;
    uint32_t sq_mask, cq_mask;
    struct io_uring_sqe *sqes;
    struct io_uring_cqe *cqes;
};

static int open_ring(struct ring *ring, unsigned depth)
{
    struct io_uring_params params = {0};
    int fd = syscall(SYS_io_uring_setup, depth, &params);
    if (fd < 0) return -1;
    // IORING_FEAT_SINGLE_MMAP is in every kernel since 5.4: both rings are in one mapping.
    size_t sq = params.sq_off.array + params.sq_entries * sizeof(uint32_t);
    size_t cq = params.cq_off.cqes + params.cq_entries * sizeof(struct io_uring_cqe);
    int protection = PROT_READ | PROT_WRITE, flags = MAP_SHARED | MAP_POPULATE;
    char *rings = mmap(NULL, sq > cq ? sq : cq, protection, flags, fd, IORING_OFF_SQ_RING);
    struct io_uring_sqe *sqes = mmap(NULL, params.sq_entries * sizeof *sqes, protection, flags, fd, IORING_OFF_SQES);
    if (rings == MAP_FAILED || (void *)sqes == MAP_FAILED) CHECK(-1);
    *ring = (struct ring){
        .fd = fd,
        .sq_tail = (uint32_t *)(rings + params.sq_off.tail),
        .sq_array = (uint32_t *)(rings + params.sq_off.array),
        .cq_head = (uint32_t *)(rings + params.cq_off.head),
        .cq_tail = (uint32_t *)(rings + params.cq_off.tail),
        .sq_mask = *(uint32_t *)(rings + params.sq_off.ring_mask),
        .cq_mask = *(uint32_t *)(rings + params.cq_off.ring_mask),
        .sqes = sqes,
        .cqes = (struct io_uring_cqe *)(rings + params.cq_off.cqes),
    };
    return 0;
}

static void submit(struct ring *ring, int fd, struct iovec *vector, long offset)
{
    uint32_t tail = *ring->sq_tail, index = tail & ring->sq_mask;
    ring->sqes[index] = (struct io_uring_sqe){
        .opcode = IORING_OP_READV,
        .fd = fd,
        .addr = (uintptr_t)vector,
        .len = 1,
        .off = offset,
        .user_data = (uintptr_t)vector,
    };
    ring->sq_array[index] = index;
    __atomic_store_n(ring->sq_tail, tail + 1, __ATOMIC_RELEASE);
}

int main(int argc, char **argv)
{
    if (argc != 7) {
        fprintf(stderr, "usage: %s FILE preadv|uring cached|direct BYTES DEPTH SECONDS\n", argv[0]);
        return 2;
    }
    int uring = strcmp(argv[2], "uring") == 0;
    int direct = strcmp(argv[3], "direct") == 0;
    long bytes = atol(argv[4]), depth = atol(argv[5]);
    double seconds = atof(argv[6]);

    int fd = CHECK(open(argv[1], O_RDONLY | (direct ? O_DIRECT : 0)));
    struct stat stat;
    CHECK(fstat(fd, &stat));
    long slots = stat.st_size / bytes;
    char *memory = mmap(NULL, bytes * depth, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) CHECK(-1);
    memset(memory, 0x5a, bytes * depth);
    struct iovec *vectors = calloc(depth, sizeof *vectors);
    for (long i = 0; i < depth; i++) vectors[i] = (struct iovec){memory + i * bytes, bytes};

    struct ring ring;
    if (uring && open_ring(&ring, depth) < 0) {
        puts("none");
        return 0;
    }
    long count = 0;
    double start = now(), end;
    unsigned pending = 0;
    if (uring) {
        for (long i = 0; i < depth; i++) submit(&ring, fd, &vectors[i], next_random() % slots * bytes);
        pending = depth;
    }
    do {
        if (!uring) {
            for (long i = 0; i < depth; i++, count++)
                if (CHECK(preadv(fd, &vectors[i], 1, next_random() % slots * bytes)) != bytes) return 1;
        } else {
            CHECK(syscall(SYS_io_uring_enter, ring.fd, pending, 1, IORING_ENTER_GETEVENTS, NULL, 0));
            uint32_t head = *ring.cq_head, tail = __atomic_load_n(ring.cq_tail, __ATOMIC_ACQUIRE);
            for (pending = 0; head != tail; head++, pending++, count++) {
                struct io_uring_cqe *cqe = &ring.cqes[head & ring.cq_mask];
                errno = -cqe->res;
                if (CHECK(cqe->res < 0 ? -1 : cqe->res) != bytes) return 1;
                submit(&ring, fd, (struct iovec *)(uintptr_t)cqe->user_data, next_random() % slots * bytes);
            }
            __atomic_store_n(ring.cq_head, head, __ATOMIC_RELEASE);
        }
        end = now();
    } while (end - start < seconds);
    printf("%f\n", count / (end - start));
    return 0;
}
