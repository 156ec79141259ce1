// SPDX-License-Identifier: Apache-2.0
// The reference of the block benchmark: the same requests on the same file, one preadv or pwritev for each, as a monitor
// in C makes that has nothing else to do: no ring, no descriptors, no guest.
//
//   block FILE read|write sequential|random BYTES DEPTH SECONDS      prints requests a second

#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "common.h"

#define PIECE 4096

int main(int argc, char **argv)
{
    if (argc != 7) {
        fprintf(stderr, "usage: %s FILE read|write sequential|random BYTES DEPTH SECONDS\n", argv[0]);
        return 2;
    }
    int writing = strcmp(argv[2], "write") == 0;
    int random = strcmp(argv[3], "random") == 0;
    long bytes = atol(argv[4]), depth = atol(argv[5]);
    double seconds = atof(argv[6]);

    int fd = CHECK(open(argv[1], O_RDWR));
    struct stat stat;
    CHECK(fstat(fd, &stat));
    long slots = stat.st_size / bytes, pieces = bytes / PIECE;

    // As a guest's: each request has pages of its own, and they are not next to one another.
    char *memory = mmap(NULL, 2 * bytes * depth, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) CHECK(-1);
    memset(memory, 0x5a, 2 * bytes * depth);
    struct iovec *iov = calloc(depth * pieces, sizeof *iov);
    for (long i = 0; i < depth * pieces; i++) iov[i] = (struct iovec){memory + 2 * i * PIECE, PIECE};

    long count = 0, next = 0;
    double start = now(), end;
    do {
        for (long request = 0; request < depth; request++, count++) {
            if (random) {
                next = next_random() % slots;
            } else {
                next = next + 1 < slots ? next + 1 : 0;
            }
            struct iovec *vector = iov + request * pieces;
            long moved = writing ? pwritev(fd, vector, pieces, next * bytes) : preadv(fd, vector, pieces, next * bytes);
            if (CHECK(moved) != bytes) return 1;
        }
        end = now();
    } while (end - start < seconds);
    printf("%f\n", count / (end - start));
    return 0;
}
