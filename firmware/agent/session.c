// SPDX-License-Identifier: Apache-2.0
//
// Frames in and out, the greeting, and which kind of session it is.

#include "session.h"

// How long a failed session waits for the host to take notice.
#define LINGER_MS 10000

int connection = -1;
void (*clean_up)(void);

static u8 incoming[FRAME_HEADER + FRAME_MAX + 1];
static u32 incoming_have;
static u8 outgoing_frame[FRAME_HEADER + FRAME_MAX];

enum received receive(struct frame *frame, int flags)
{
    // Never more than the frame at hand: what follows may be for the relay of a connection.
    for (;;) {
        u32 want = FRAME_HEADER;
        if (incoming_have >= FRAME_HEADER) {
            u32 length = load_u32(incoming);
            if (length > FRAME_MAX)
                fail_protocol("a frame is too long");
            want += length;
        }
        if (incoming_have >= FRAME_HEADER && incoming_have == want)
            break;
        long got = sys6(recvfrom, connection, incoming + incoming_have, want - incoming_have, flags, 0, 0);
        if (got == -EINTR)
            continue;
        if (got == -EAGAIN)
            return RECEIVED_PART;
        if (got <= 0)
            return RECEIVED_END;
        incoming_have += (u32)got;
    }
    frame->length = load_u32(incoming);
    frame->type = load_u32(incoming + 4);
    frame->payload = incoming + FRAME_HEADER;
    frame->payload[frame->length] = '\0';
    incoming_have = 0;
    return RECEIVED_FRAME;
}

int keep_only(int fd)
{
    if (fd != 3)
        sys2(dup2, fd, 3);
    sys3(close_range, 4, ~0U, 0);
    return 3;
}

void close_files(void)
{
    connection = keep_only(connection);
}

static void clean_up_once(void)
{
    void (*action)(void) = clean_up;
    clean_up = NULL;
    if (action != NULL)
        action();
    close_files();
}

void receive_or_exit(struct frame *frame)
{
    if (receive(frame, 0) == RECEIVED_FRAME)
        return;
    clean_up_once();
    exit_process(0);
}

u8 *outgoing(void)
{
    return outgoing_frame + FRAME_HEADER;
}

u32 seal_outgoing(u32 type, u32 length, const u8 **bytes)
{
    store_u32(outgoing_frame, length);
    store_u32(outgoing_frame + 4, type);
    *bytes = outgoing_frame;
    return FRAME_HEADER + length;
}

bool send_outgoing(u32 type, u32 length)
{
    const u8 *next;
    u32 count = seal_outgoing(type, length, &next);
    while (count > 0) {
        long done = sys6(sendto, connection, next, count, MSG_NOSIGNAL, 0, 0);
        if (done == -EINTR)
            continue;
        if (done <= 0)
            return false;
        next += done;
        count -= (u32)done;
    }
    return true;
}

// A connection that is closed with bytes unread is reset, and the host might lose what was said last.
_Noreturn void finish_session(void)
{
    struct pollfd poll = {connection, POLLIN, 0};
    sys2(shutdown, connection, SHUT_WR);
    for (;;) {
        long ready = sys3(poll, &poll, 1, LINGER_MS);
        if (ready == -EINTR)
            continue;
        if (ready <= 0)
            break;
        long got = sys6(recvfrom, connection, incoming, sizeof incoming, MSG_DONTWAIT, 0, 0);
        if (got <= 0 && got != -EINTR && got != -EAGAIN)
            break;
    }
    exit_process(0);
}

_Noreturn void fail(u32 code, long error, const char *text)
{
    size_t length = text_length(text);
    clean_up_once();
    if (length > FRAME_MAX - 8)
        length = FRAME_MAX - 8;
    store_u32(outgoing(), code);
    store_u32(outgoing() + 4, (u32)(error < 0 ? -error : error));
    copy_bytes(outgoing() + 8, text, length);
    if (send_outgoing(FRAME_ERROR, 8 + (u32)length))
        finish_session();
    exit_process(0);
}

_Noreturn void fail_protocol(const char *text)
{
    fail(ERROR_PROTOCOL, 0, text);
}

char *payload_text(struct frame *frame, u32 offset)
{
    if (frame->length <= offset)
        fail_protocol("a name is missing");
    char *text = (char *)frame->payload + offset;
    if (text_length(text) != frame->length - offset)
        fail_protocol("a name has a NUL in it");
    return text;
}

static void greet(void)
{
    struct frame frame;
    store_u32(outgoing(), AGENT_MAGIC);
    store_u32(outgoing() + 4, AGENT_VERSION);
    if (!send_outgoing(FRAME_HELLO, 8))
        exit_process(0);
    receive_or_exit(&frame);
    if (frame.type != FRAME_HELLO || frame.length < 8 || load_u32(frame.payload) != AGENT_MAGIC)
        fail_protocol("the first frame is not a greeting");
    if (load_u32(frame.payload + 4) != AGENT_VERSION)
        fail(ERROR_VERSION, 0, "the agent speaks version 2 only");
}

void begin_session(int fd)
{
    connection = fd;
    incoming_have = 0;
    clean_up = NULL;
    greet();
}

_Noreturn void serve(int fd, char **environment)
{
    struct frame frame;
    begin_session(fd);
    for (;;) {
        receive_or_exit(&frame);
        switch (frame.type) {
        case FRAME_PING:
            copy_bytes(outgoing(), frame.payload, frame.length);
            if (!send_outgoing(FRAME_PONG, frame.length))
                exit_process(0);
            break;
        case FRAME_SYNC:
            sys0(sync);
            if (!send_outgoing(FRAME_SYNC, 0))
                exit_process(0);
            break;
        case FRAME_METRICS:
            send_metrics();
            break;
        case FRAME_ARG:
        case FRAME_ENV:
        case FRAME_CWD:
        case FRAME_TTY:
        case FRAME_USER:
            run_program(&frame, environment);
            finish_session();
        case FRAME_PUT:
            receive_tree(&frame);
            finish_session();
        case FRAME_GET:
            send_tree(&frame);
            finish_session();
        case FRAME_FORWARD:
            forward(&frame);
            exit_process(0);
        case FRAME_SERVE:
            serve_service(&frame);
        default:
            fail_protocol("a frame is of no kind that can come here");
        }
    }
}
