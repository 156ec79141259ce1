// SPDX-License-Identifier: Apache-2.0
//
// The bytes of a connection inside the guest, TCP or Unix, as frames of the session: BYTES, and BYTES_END where one side
// will send no more. Frames, since a connection that broke off must not look like one that came to its end: a session
// that is over before both ends were said is a reset, in either direction.

#include "session.h"

#define RELAY_BYTES 65536U

// From the host to `local`.
static struct {
    u8 bytes[RELAY_BYTES];
    u32 begin, end;
    u8 header[FRAME_HEADER];
    u32 header_have;
    // Bytes of the frame at hand that are still to come.
    u32 left;
    bool ended;
} in;

// From `local` to the host: one frame at a time.
static struct {
    u8 frame[FRAME_HEADER + RELAY_BYTES];
    u32 begin, end;
    bool ended;
} out;

void reset_on_close(int fd, bool reset)
{
    struct {
        int on, seconds;
    } linger = {reset, 0};
    sys5(setsockopt, fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
}

// Returns how many bytes; 0 when there are none or no room for now, -1 when the connection is broken.
static long send_some(int fd, const u8 *bytes, u32 count)
{
    for (;;) {
        long done = sys6(sendto, fd, bytes, count, MSG_DONTWAIT | MSG_NOSIGNAL, 0, 0);
        if (done == -EINTR)
            continue;
        return done > 0 ? done : done == -EAGAIN ? 0 : -1;
    }
}

// The same, where -EAGAIN says that there is nothing for now and 0 is the end.
static long receive_some(int fd, u8 *bytes, u32 count)
{
    for (;;) {
        long got = sys6(recvfrom, fd, bytes, count, MSG_DONTWAIT, 0, 0);
        if (got != -EINTR)
            return got >= 0 || got == -EAGAIN ? got : -1;
    }
}

// False when the frame is none that can come.
static bool begin_frame(int local)
{
    u32 length = load_u32(in.header), type = load_u32(in.header + 4);
    in.header_have = 0;
    if (in.ended)
        return false;
    if (type == FRAME_BYTES && length <= FRAME_MAX) {
        in.left = length;
        return true;
    }
    if (type != FRAME_BYTES_END || length != 0)
        return false;
    in.ended = true;
    sys2(shutdown, local, SHUT_WR);
    return true;
}

// Gives `local` what has come, as far as it takes it. False when the connection is broken.
static bool pass_in(int local)
{
    while (in.begin < in.end) {
        if (in.left == 0) {
            in.header[in.header_have++] = in.bytes[in.begin++];
            if (in.header_have == FRAME_HEADER && !begin_frame(local))
                return false;
            continue;
        }
        u32 count = in.end - in.begin < in.left ? in.end - in.begin : in.left;
        long done = send_some(local, in.bytes + in.begin, count);
        if (done <= 0)
            return done == 0;
        in.begin += (u32)done;
        in.left -= (u32)done;
    }
    return true;
}

static bool pump_in(int local)
{
    if (in.begin == in.end) {
        long got = receive_some(connection, in.bytes, RELAY_BYTES);
        if (got == -EAGAIN)
            return true;
        // Its end before both ends were said is a reset.
        if (got <= 0)
            return false;
        in.begin = 0;
        in.end = (u32)got;
    }
    return pass_in(local);
}

static bool pump_out(int local)
{
    if (out.begin == out.end) {
        long got = receive_some(local, out.frame + FRAME_HEADER, RELAY_BYTES);
        if (got == -EAGAIN)
            return true;
        if (got < 0)
            return false;
        out.ended = got == 0;
        store_u32(out.frame, (u32)got);
        store_u32(out.frame + 4, out.ended ? FRAME_BYTES_END : FRAME_BYTES);
        out.begin = 0;
        out.end = FRAME_HEADER + (u32)got;
    }
    long done = send_some(connection, out.frame + out.begin, out.end - out.begin);
    if (done < 0)
        return false;
    out.begin += (u32)done;
    return true;
}

// A socket that nothing is wanted of for now would wake the poll again and again when it has hung up. Of TCP, a hang-up of
// one that may still be written to is a reset, which is not to wait for the next byte.
static int watched(int fd, short events, bool reset_matters)
{
    return events != 0 || reset_matters ? fd : -1;
}

void relay(int local, bool tcp)
{
    for (;;) {
        bool in_waits = in.begin < in.end, out_waits = out.begin < out.end;
        if (in.ended && out.ended && !in_waits && !out_waits)
            break;
        short host_events = (short)((in_waits ? 0 : POLLIN) | (out_waits ? POLLOUT : 0));
        short local_events = (short)((out.ended || out_waits ? 0 : POLLIN) | (in_waits ? POLLOUT : 0));
        struct pollfd polls[2] = {
            {watched(connection, host_events, false), host_events, 0},
            {watched(local, local_events, tcp && !in.ended), local_events, 0},
        };
        long ready = sys3(poll, polls, 2, -1);
        if (ready == -EINTR)
            continue;
        if (ready < 0 || (polls[0].revents & POLLERR) != 0 || (polls[1].revents & POLLERR) != 0)
            return;
        if (local_events == 0 && (polls[1].revents & POLLHUP) != 0)
            return;
        bool from_host = (polls[0].revents & (POLLIN | POLLHUP)) != 0 && !in_waits;
        bool to_local = (polls[1].revents & (POLLOUT | POLLHUP)) != 0 && in_waits;
        if ((from_host || to_local) && !pump_in(local))
            return;
        bool from_local = (polls[1].revents & (POLLIN | POLLHUP)) != 0 && !out.ended && !out_waits;
        bool to_host = (polls[0].revents & (POLLOUT | POLLHUP)) != 0 && out_waits;
        if ((from_local || to_host) && !pump_out(local))
            return;
    }
    reset_on_close(local, false);
}
