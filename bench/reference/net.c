// SPDX-License-Identifier: Apache-2.0
// The other end of the `net` benchmark, and its reference: frames over a SEQPACKET socket, which like a tap takes and
// gives one a call.
//
//   net sink FD             reads frames until the other end closes
//   net source FD BYTES     writes frames of BYTES bytes, header included, until nobody reads them any more
//   net pair BYTES SECONDS  one process to another, by writev and readv; prints frames per second

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common.h"

#define HEADER 12
#define LARGEST 70000
#define BUFFER 1536

static char frame[LARGEST];

static void block(int fd)
{
    CHECK(fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK));
}

// Into buffers as a Linux guest posts them.
static long receive(int fd)
{
    struct iovec iov[LARGEST / BUFFER + 1];
    int count = sizeof(iov) / sizeof(iov[0]);
    for (int i = 0; i < count; i++) {
        size_t left = LARGEST - (size_t)i * BUFFER;
        iov[i] = (struct iovec){frame + (size_t)i * BUFFER, left < BUFFER ? left : BUFFER};
    }
    return readv(fd, iov, count);
}

static long transmit(int fd, size_t bytes)
{
    struct iovec iov[2] = {{frame, HEADER}, {frame + HEADER, bytes - HEADER}};
    return writev(fd, iov, 2);
}

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    if (argc == 3 && strcmp(argv[1], "sink") == 0) {
        block(atoi(argv[2]));
        while (receive(atoi(argv[2])) > 0) continue;
        return 0;
    }
    if (argc == 4 && strcmp(argv[1], "source") == 0) {
        block(atoi(argv[2]));
        while (transmit(atoi(argv[2]), (size_t)atol(argv[3])) > 0) continue;
        return 0;
    }
    if (argc != 4 || strcmp(argv[1], "pair") != 0) {
        fprintf(stderr, "usage: net sink FD | source FD BYTES | pair BYTES SECONDS\n");
        return 1;
    }
    int fds[2];
    CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, fds));
    size_t bytes = (size_t)atol(argv[2]);
    double seconds = atof(argv[3]);
    pid_t child = CHECK(fork());
    if (child == 0) {
        close(fds[0]);
        while (receive(fds[1]) > 0) continue;
        return 0;
    }
    close(fds[1]);
    double start = now();
    long frames = 0;
    do {
        for (int i = 0; i < 64; i++) CHECK(transmit(fds[0], bytes));
        frames += 64;
    } while (now() - start < seconds);
    double elapsed = now() - start;
    close(fds[0]);
    waitpid(child, NULL, 0);
    printf("%f\n", (double)frames / elapsed);
    return 0;
}
