// SPDX-License-Identifier: Apache-2.0
//
// A TCP connection inside the guest, to 127.0.0.1, for a port of the host. After CONNECTED the session has no frames.

#include "session.h"

#define CONNECT_SECONDS 10
#define RELAY_BYTES 65536U

struct sockaddr_inet {
    u16 family;
    u8 port[2];
    u8 address[4];
    u8 zero[8];
};
_Static_assert(sizeof(struct sockaddr_inet) == 16, "ip(7)");

// One way: what `from` sent and `to` has not taken yet.
struct way {
    int from, to;
    u8 *bytes;
    u32 begin, end;
    // `from` will send no more.
    bool ended;
    // And `to` was told.
    bool done;
};

static u8 buffers[2][RELAY_BYTES];

// False when the connection is broken.
static bool pump_in(struct way *way)
{
    long got = sys6(recvfrom, way->from, way->bytes, RELAY_BYTES, MSG_DONTWAIT, 0, 0);
    if (got == -EAGAIN || got == -EINTR)
        return true;
    if (got < 0)
        return false;
    way->begin = 0;
    way->end = (u32)got;
    way->ended = got == 0;
    return true;
}

static bool pump_out(struct way *way)
{
    while (way->begin < way->end) {
        long done =
            sys6(sendto, way->to, way->bytes + way->begin, way->end - way->begin, MSG_DONTWAIT | MSG_NOSIGNAL, 0, 0);
        if (done == -EAGAIN)
            return true;
        if (done == -EINTR)
            continue;
        if (done <= 0)
            return false;
        way->begin += (u32)done;
    }
    if (way->ended && !way->done) {
        way->done = true;
        sys2(shutdown, way->to, SHUT_WR);
    }
    return true;
}

static int connect_to(u32 port)
{
    struct sockaddr_inet address = {AF_INET, {(u8)(port >> 8), (u8)port}, {127, 0, 0, 1}, {0}};
    struct {
        long seconds, microseconds;
    } limit = {CONNECT_SECONDS, 0};
    int fd = (int)sys3(socket, AF_INET, SOCK_STREAM | O_CLOEXEC, 0);
    if (fd < 0)
        fail(ERROR_IO, fd, "no TCP socket can be made");
    sys5(setsockopt, fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    long error = sys3(connect, fd, &address, sizeof address);
    if (error < 0)
        fail(ERROR_REFUSED, error, "nobody answers at that port of the guest");
    return fd;
}

// A side that has hung up both ways takes nothing more: the way towards it is over.
static void note_hang_up(short events, const struct way *out_of, struct way *into)
{
    if ((events & POLLHUP) != 0 && out_of->ended) {
        into->ended = into->done = true;
        into->begin = into->end;
    }
}

void forward(struct frame *request)
{
    if (request->length != 4 || load_u32(request->payload) - 1 >= 65535)
        fail_protocol("FORWARD names no port");
    int tcp = connect_to(load_u32(request->payload));
    if (!send_outgoing(FRAME_CONNECTED, 0))
        return;
    struct way in = {connection, tcp, buffers[0], 0, 0, false, false};
    struct way out = {tcp, connection, buffers[1], 0, 0, false, false};
    while (!in.done || !out.done) {
        bool in_waits = in.begin < in.end, out_waits = out.begin < out.end;
        struct pollfd polls[2] = {
            {connection, (short)((!in.ended && !in_waits ? POLLIN : 0) | (out_waits ? POLLOUT : 0)), 0},
            {tcp, (short)((!out.ended && !out_waits ? POLLIN : 0) | (in_waits ? POLLOUT : 0)), 0},
        };
        // Of a side that nothing is wanted of, a hang-up is no news.
        for (int i = 0; i < 2; i++) {
            if (polls[i].events == 0 && (i == 0 ? in.ended : out.ended) && (i == 0 ? out.done : in.done))
                polls[i].fd = -1;
        }
        long ready = sys3(poll, polls, 2, -1);
        if (ready == -EINTR)
            continue;
        if (ready < 0 || (polls[0].revents & POLLERR) != 0 || (polls[1].revents & POLLERR) != 0)
            return;
        if ((polls[0].revents & (POLLIN | POLLHUP)) != 0 && !in.ended && !in_waits && !pump_in(&in))
            return;
        if ((polls[1].revents & (POLLIN | POLLHUP)) != 0 && !out.ended && !out_waits && !pump_in(&out))
            return;
        note_hang_up(polls[0].revents, &in, &out);
        note_hang_up(polls[1].revents, &out, &in);
        if (!pump_out(&in) || !pump_out(&out))
            return;
    }
}
