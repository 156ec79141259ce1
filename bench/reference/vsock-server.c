// SPDX-License-Identifier: Apache-2.0
// The reference of the `vsock` benchmark: what a monitor does with a Unix socket, without the guest.
//
//   vsock-server SOCKET BUFFERS_PER_CALL
//
// Answers "CONNECT <port>\n" with "OK 1\n", then serves the ports of the built-in guest: echo 7, discard 9, chargen 19. It
// moves bytes with readv and writev, BUFFERS_PER_CALL buffers of 4 KiB a call, taken in turn from a set as large as a
// virtqueue, with room for a header between them: the receive buffers of a guest.
//
// Port 17 echoes, too, but passes each byte through a second thread with an eventfd each way: the least that a monitor
// does with two threads which sleep.

#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include "common.h"

#define BUFFERS 256
#define BUFFER_SIZE 4096
#define STRIDE 4160
#define CALLS_PER_TURN 4
#define EVENTS 64
#define MAX_CONNECTIONS 16384

enum service { ASKING = 0, ECHO = 7, DISCARD = 9, WAKE_ECHO = 17, CHARGEN = 19 };

struct connection {
    enum service service;
    // Echo: what was read and is not written yet.
    char *held;
    size_t held_length, held_done;
};

static char *buffers;
static int per_call;
static struct connection table[MAX_CONNECTIONS];
static int wake_there, wake_back;

// The next buffers in turn, with `length` bytes in all at most.
static int next_buffers(struct iovec *iov)
{
    static int turn;
    for (int i = 0; i < per_call; i++) {
        iov[i] = (struct iovec){buffers + (size_t)turn * STRIDE, BUFFER_SIZE};
        turn = (turn + 1) % BUFFERS;
    }
    return per_call;
}

static void *second_thread(void *unused)
{
    (void)unused;
    int poll = CHECK(epoll_create1(EPOLL_CLOEXEC));
    struct epoll_event event = {.events = EPOLLIN | EPOLLET};
    CHECK(epoll_ctl(poll, EPOLL_CTL_ADD, wake_there, &event));
    for (;;) {
        CHECK(epoll_wait(poll, &event, 1, -1));
        CHECK(eventfd_write(wake_back, 1));
    }
}

static void end(int fd)
{
    free(table[fd].held);
    table[fd] = (struct connection){0};
    close(fd);
}

static void answer(int fd)
{
    char line[32];
    long length = read(fd, line, sizeof line - 1);
    int port;
    if (length < 0 && errno == EAGAIN) return;
    if (length <= 0) {
        end(fd);
        return;
    }
    line[length] = '\0';
    if (sscanf(line, "CONNECT %d\n", &port) != 1 || write(fd, "OK 1\n", 5) != 5) {
        end(fd);
        return;
    }
    table[fd].service = port;
    if (port == ECHO) table[fd].held = malloc((size_t)per_call * BUFFER_SIZE);
}

// One call each way. Returns false when nothing can be done until epoll says so.
static int echo(int fd, struct connection *c)
{
    if (c->held_done == c->held_length) {
        // Read into scattered buffers, as for a guest, and written from them.
        struct iovec iov[BUFFERS];
        long length = readv(fd, iov, next_buffers(iov));
        if (length <= 0) {
            if (length == 0 || errno != EAGAIN) end(fd);
            return 0;
        }
        int count = 0;
        for (long left = length; left > 0; left -= BUFFER_SIZE) {
            if (left < BUFFER_SIZE) iov[count].iov_len = left;
            count++;
        }
        long done = writev(fd, iov, count);
        if (done < 0 && errno != EAGAIN) {
            end(fd);
            return 0;
        }
        if (done < 0) done = 0;
        c->held_length = 0;
        c->held_done = 0;
        for (int i = 0; i < count; i++) {
            size_t skip = (size_t)done < iov[i].iov_len ? (size_t)done : iov[i].iov_len;
            memcpy(c->held + c->held_length, (char *)iov[i].iov_base + skip, iov[i].iov_len - skip);
            c->held_length += iov[i].iov_len - skip;
            done -= skip;
        }
        return c->held_length == 0;
    }
    long done = write(fd, c->held + c->held_done, c->held_length - c->held_done);
    if (done < 0) {
        if (errno != EAGAIN) end(fd);
        return 0;
    }
    c->held_done += done;
    return 1;
}

// Returns whether there may be more to do at once.
static int serve(int fd)
{
    struct connection *c = &table[fd];
    struct iovec iov[BUFFERS];
    long result;
    char byte;
    switch (c->service) {
    case ASKING:
        answer(fd);
        return c->service != ASKING;
    case ECHO:
        return echo(fd, c);
    case DISCARD:
        result = readv(fd, iov, next_buffers(iov));
        break;
    case CHARGEN:
        result = writev(fd, iov, next_buffers(iov));
        break;
    case WAKE_ECHO:
        result = read(fd, &byte, 1);
        if (result == 1) CHECK(eventfd_write(wake_there, 1));
        break;
    default:
        result = 0;
    }
    if (result > 0) return 1;
    if (result == 0 || errno != EAGAIN) end(fd);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc != 3 || (per_call = atoi(argv[2])) < 1 || per_call > BUFFERS) {
        fprintf(stderr, "usage: %s SOCKET BUFFERS_PER_CALL\n", argv[0]);
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    struct rlimit files = {MAX_CONNECTIONS, MAX_CONNECTIONS};
    setrlimit(RLIMIT_NOFILE, &files);
    buffers = malloc((size_t)BUFFERS * STRIDE);
    memset(buffers, 'x', (size_t)BUFFERS * STRIDE);
    wake_there = CHECK(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    wake_back = CHECK(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    pthread_t thread;
    CHECK(-pthread_create(&thread, NULL, second_thread, NULL));

    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(argv[1]) >= sizeof address.sun_path) return 2;
    strcpy(address.sun_path, argv[1]);
    int listener = CHECK(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    CHECK(bind(listener, (struct sockaddr *)&address, sizeof address));
    CHECK(listen(listener, 4096));
    int poll = CHECK(epoll_create1(EPOLL_CLOEXEC));
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener};
    CHECK(epoll_ctl(poll, EPOLL_CTL_ADD, listener, &event));
    event = (struct epoll_event){.events = EPOLLIN | EPOLLET, .data.fd = wake_back};
    CHECK(epoll_ctl(poll, EPOLL_CTL_ADD, wake_back, &event));

    // Sockets that are ready and had their share.
    static int line[MAX_CONNECTIONS];
    static char in_line[MAX_CONNECTIONS];
    unsigned first = 0, queued = 0;
    int wake_client = -1;
    struct epoll_event events[EVENTS];
    for (;;) {
        int count = CHECK(epoll_wait(poll, events, EVENTS, queued > 0 ? 0 : -1));
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) {
                int client;
                while ((client = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)) >= 0) {
                    if (client >= MAX_CONNECTIONS) {
                        close(client);
                        continue;
                    }
                    event = (struct epoll_event){.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.fd = client};
                    CHECK(epoll_ctl(poll, EPOLL_CTL_ADD, client, &event));
                }
            } else if (fd == wake_back) {
                if (wake_client >= 0 && write(wake_client, "x", 1) != 1) wake_client = -1;
            } else if (!in_line[fd]) {
                in_line[fd] = 1;
                line[(first + queued++) % MAX_CONNECTIONS] = fd;
            }
        }
        for (unsigned turns = queued < EVENTS ? queued : EVENTS; turns > 0; turns--) {
            int fd = line[first++ % MAX_CONNECTIONS], more = 1;
            queued--;
            if (table[fd].service == WAKE_ECHO) wake_client = fd;
            for (int call = 0; call < CALLS_PER_TURN && more; call++) more = serve(fd);
            if (more) line[(first + queued++) % MAX_CONNECTIONS] = fd;
            else in_line[fd] = 0;
        }
    }
}
