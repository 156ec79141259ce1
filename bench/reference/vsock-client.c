// SPDX-License-Identifier: Apache-2.0
// The load of the `vsock` benchmark: a client of a monitor's vsock socket, or of the reference server beside this file.
//
//   vsock-client SOCKET PORT write|read|echo SECONDS CONNECTIONS   -> bytes per second, bytes in all
//   vsock-client SOCKET PORT ping SECONDS                          -> median, 99th percentile, mean (us), round trips
//   vsock-client SOCKET PORT connect SECONDS AT_ONCE               -> connections per second
//   vsock-client SOCKET PORT idle CONNECTIONS                      -> says "ready", ends with its standard input
//
// One thread, large buffers and as few calls as possible: the other side is what is measured.

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "common.h"

#define BUFFER_SIZE (256 << 10)
#define WARM_UP 0.2
// Calls on one ready socket before the next has its turn.
#define CALLS_PER_TURN 4
#define EVENTS 64
// No exchange takes this long; a client that waits longer has found a fault.
#define TIMEOUT_SECONDS 20
#define MAX_SAMPLES (1 << 22)

static const char *path, *port;
static char buffer[BUFFER_SIZE];

static int begin_connection(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path) {
        fprintf(stderr, "%s: too long for a Unix socket\n", path);
        exit(2);
    }
    strcpy(address.sun_path, path);
    int fd = CHECK(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    struct timeval limit = {.tv_sec = TIMEOUT_SECONDS};
    CHECK(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit));
    CHECK(setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit));
    CHECK(connect(fd, (struct sockaddr *)&address, sizeof address));
    char line[32];
    int length = snprintf(line, sizeof line, "CONNECT %s\n", port);
    if (CHECK(write(fd, line, length)) != length) exit(1);
    return fd;
}

// Reads "OK <port>\n" and not a byte beyond: what follows is the guest's.
static void finish_connection(int fd)
{
    char byte, first = 0;
    do {
        if (CHECK(read(fd, &byte, 1)) != 1) {
            fprintf(stderr, "port %s: refused\n", port);
            exit(3);
        }
        if (first == 0) first = byte;
    } while (byte != '\n');
    if (first != 'O') exit(3);
}

static int *connect_many(long count)
{
    struct rlimit files;
    CHECK(getrlimit(RLIMIT_NOFILE, &files));
    files.rlim_cur = files.rlim_max;
    CHECK(setrlimit(RLIMIT_NOFILE, &files));
    int *fds = calloc(count, sizeof *fds);
    for (long i = 0; i < count; i++) {
        fds[i] = begin_connection();
        finish_connection(fds[i]);
    }
    return fds;
}

static int would_block(long result)
{
    if (result < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return 1;
    if (result > 0) return 0;
    if (result == 0) fprintf(stderr, "the connection has ended\n");
    else perror("transfer");
    exit(1);
}

static void bulk(const char *mode, double seconds, long connections)
{
    int writes = strcmp(mode, "read") != 0, reads = strcmp(mode, "write") != 0;
    int *fds = connect_many(connections);
    int poll = CHECK(epoll_create1(EPOLL_CLOEXEC));
    for (long i = 0; i < connections; i++) {
        CHECK(fcntl(fds[i], F_SETFL, O_NONBLOCK));
        // Echo is edge-triggered: a socket that cannot be written to must not keep the loop from sleeping.
        struct epoll_event event = {.events = (writes ? EPOLLOUT : 0) | (reads ? EPOLLIN : 0) | EPOLLET,
                                    .data.fd = fds[i]};
        CHECK(epoll_ctl(poll, EPOLL_CTL_ADD, fds[i], &event));
    }
    // Sockets that are ready and had their share; a ring as large as there are sockets.
    int *line = calloc(connections, sizeof *line);
    char *in_line = calloc(CHECK(dup(0)) + connections + 64, 1);
    long first = 0, queued = 0;
    uint64_t sent = 0, received = 0, counted_from = 0;
    double start = 0, begin = now(), end = begin + WARM_UP + seconds, time;
    struct epoll_event events[EVENTS];
    while ((time = now()) < end) {
        if (start == 0 && time >= begin + WARM_UP) {
            start = time;
            counted_from = reads ? received : sent;
        }
        int count = CHECK(epoll_wait(poll, events, EVENTS, queued > 0 ? 0 : (int)((end - time) * 1000) + 1));
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            if (in_line[fd]) continue;
            in_line[fd] = 1;
            line[(first + queued++) % connections] = fd;
        }
        for (long turns = queued < EVENTS ? queued : EVENTS; turns > 0; turns--) {
            int fd = line[first], blocked = 0;
            first = (first + 1) % connections;
            queued--;
            for (int call = 0; call < CALLS_PER_TURN && !blocked; call++) {
                blocked = 1;
                if (writes) {
                    long result = write(fd, buffer, BUFFER_SIZE);
                    if (!would_block(result)) {
                        sent += result;
                        blocked = 0;
                    }
                }
                if (reads) {
                    long result = read(fd, buffer, BUFFER_SIZE);
                    if (!would_block(result)) {
                        received += result;
                        blocked = 0;
                    }
                }
            }
            if (blocked) in_line[fd] = 0;
            else line[(first + queued++) % connections] = fd;
        }
    }
    uint64_t total = reads ? received : sent;
    printf("%f %f\n", (total - counted_from) / (time - start), (double)total);
}

static int by_value(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static void ping(double seconds)
{
    int fd = connect_many(1)[0];
    float *samples = malloc(MAX_SAMPLES * sizeof *samples);
    long count = 0;
    double begin = now(), before = begin, sum = 0;
    while (before < begin + WARM_UP + seconds && count < MAX_SAMPLES) {
        if (CHECK(write(fd, buffer, 1)) != 1 || CHECK(read(fd, buffer, 1)) != 1) exit(1);
        double after = now();
        if (before >= begin + WARM_UP) {
            samples[count++] = (after - before) * 1e6;
            sum += after - before;
        }
        before = after;
    }
    if (count == 0) exit(1);
    qsort(samples, count, sizeof *samples, by_value);
    printf("%f %f %f %ld\n", samples[count / 2], samples[count * 99 / 100], sum / count * 1e6, count);
}

static void connect_rate(double seconds, long at_once)
{
    int *fds = calloc(at_once, sizeof *fds);
    long count = 0;
    double begin = now();
    while (now() < begin + seconds) {
        for (long i = 0; i < at_once; i++) fds[i] = begin_connection();
        for (long i = 0; i < at_once; i++, count++) {
            finish_connection(fds[i]);
            CHECK(close(fds[i]));
        }
    }
    printf("%f\n", count / (now() - begin));
}

static void idle(long connections)
{
    connect_many(connections);
    printf("ready\n");
    fflush(stdout);
    while (read(0, buffer, sizeof buffer) > 0) continue;
}

int main(int argc, char **argv)
{
    if (argc < 5) {
        fprintf(stderr, "usage: %s SOCKET PORT MODE ARGUMENT...\n", argv[0]);
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    path = argv[1];
    port = argv[2];
    const char *mode = argv[3];
    double first = atof(argv[4]);
    long second = argc > 5 ? atol(argv[5]) : 1;
    if (strcmp(mode, "ping") == 0) ping(first);
    else if (strcmp(mode, "connect") == 0) connect_rate(first, second);
    else if (strcmp(mode, "idle") == 0) idle((long)first);
    else bulk(mode, first, second);
    return 0;
}
