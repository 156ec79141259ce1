// SPDX-License-Identifier: Apache-2.0
//
// Echo (RFC 862), discard (RFC 863), daytime (RFC 867) and character generator (RFC 864); and the table of all services.

#include "services.h"
#include "calendar.h"
#include "clock.h"
#include "http.h"
#include "text.h"

// Consumed at once, so only the size of an update's round trip counts.
#define DISCARD_BUF_ALLOC (4U << 20)
// Services that ignore what they receive.
#define IGNORED_BUF_ALLOC 65536U

static bool peer_sent_all(const struct connection *c)
{
    return (c->peer_shutdown & VIRTIO_VSOCK_SHUTDOWN_SEND) != 0;
}

// Echo: bytes go through the ring; on a SEQPACKET connection message boundaries do, too.

static bool echo_receive(struct connection *c, const u8 *bytes, u32 length, u32 flags)
{
    return ring_write(&c->ring, bytes, length, flags & (VIRTIO_VSOCK_SEQ_EOM | VIRTIO_VSOCK_SEQ_EOR));
}

static bool echo_peek(struct connection *c, struct piece *piece)
{
    return ring_peek(&c->ring, piece);
}

static void echo_advance(struct connection *c, u32 length)
{
    ring_advance(&c->ring, length);
}

// Daytime: one line, then the end.

static bool daytime_open(struct connection *c)
{
    c->stamp = clock_wall_seconds();
    return true;
}

static bool daytime_peek(struct connection *c, struct piece *piece)
{
    // Made anew at each look: a line is short enough to be copied into its packet.
    static char line[32];
    struct builder b = {line, sizeof line, 0};
    struct date_time t = calendar(c->stamp);
    add_padded(&b, t.year, 4);
    add(&b, "-");
    add_padded(&b, t.month, 2);
    add(&b, "-");
    add_padded(&b, t.day, 2);
    add(&b, " ");
    add_padded(&b, t.hour, 2);
    add(&b, ":");
    add_padded(&b, t.minute, 2);
    add(&b, ":");
    add_padded(&b, t.second, 2);
    add(&b, " UTC\r\n");
    *piece = (struct piece){(const u8 *)line + c->phase, b.length - c->phase, 0};
    return piece->length != 0;
}

static void daytime_advance(struct connection *c, u32 length)
{
    c->phase += length;
}

static bool daytime_finished(const struct connection *c)
{
    return c->phase != 0;
}

// Character generator: lines of 72 characters out of the 95 printable ones, each line beginning one further on. After
// 95 lines it starts over, so one period and a packet's length of it in memory serve every position.

#define LINE_LENGTH 72
#define PRINTABLE 95
_Static_assert(CHARGEN_PERIOD == PRINTABLE * (LINE_LENGTH + 2), "services.h");

static u8 *pattern;

void services_setup(u64 memory_bytes)
{
    pattern = memory_take(CHARGEN_PERIOD + VSOCK_MAX_PAYLOAD, 64);
    http_setup(memory_bytes);
}

// Filled in when it is first needed, so that start-up does not wait for it.
const u8 *chargen_bytes(u32 phase)
{
    static bool filled;
    if (filled) {
        return pattern + phase;
    }
    filled = true;
    u8 *to = pattern;
    for (u32 line = 0; line < PRINTABLE; line++) {
        for (u32 column = 0; column < LINE_LENGTH; column++) {
            *to++ = (u8)(' ' + (line + column) % PRINTABLE);
        }
        *to++ = '\r';
        *to++ = '\n';
    }
    // Overlapping on purpose: what was just copied is the source of what follows.
    memcpy(to, pattern, VSOCK_MAX_PAYLOAD);
    return pattern + phase;
}

static bool chargen_open(struct connection *c)
{
    (void)c;
    return pattern != NULL;
}

static bool chargen_peek(struct connection *c, struct piece *piece)
{
    *piece = (struct piece){chargen_bytes(c->phase), VSOCK_MAX_PAYLOAD, 0};
    return true;
}

static void chargen_advance(struct connection *c, u32 length)
{
    c->phase = (c->phase + length) % CHARGEN_PERIOD;
}

static bool echo_finished(const struct connection *c)
{
    struct piece piece;
    return peer_sent_all(c) && !ring_peek(&c->ring, &piece);
}

const struct service services[] = {
    {
        .name = "echo",
        .port = 7,
        .with_ring = true,
        .seqpacket = true,
        .receive = echo_receive,
        .peek = echo_peek,
        .advance = echo_advance,
        .finished = echo_finished,
    },
    {
        .name = "discard",
        .port = 9,
        .buf_alloc = DISCARD_BUF_ALLOC,
        .finished = peer_sent_all,
    },
    {
        .name = "daytime",
        .port = 13,
        .buf_alloc = IGNORED_BUF_ALLOC,
        .open = daytime_open,
        .peek = daytime_peek,
        .advance = daytime_advance,
        .finished = daytime_finished,
    },
    {
        .name = "chargen",
        .port = 19,
        .buf_alloc = IGNORED_BUF_ALLOC,
        .open = chargen_open,
        .peek = chargen_peek,
        .advance = chargen_advance,
    },
    {
        .name = "http",
        .port = HTTP_PORT,
        .buf_alloc = HTTP_BUF_ALLOC,
        .open = http_open,
        .receive = http_receive,
        .peek = http_peek,
        .advance = http_advance,
        .finished = http_finished,
        .closed = http_closed,
    },
};
const u32 service_count = COUNT_OF(services);

const struct service *service_at(u32 port)
{
    for (u32 i = 0; i < service_count; i++) {
        if (services[i].port == port) {
            return &services[i];
        }
    }
    return NULL;
}

void add_services(struct builder *b)
{
    for (u32 i = 0; i < service_count; i++) {
        add(b, i == 0 ? "" : ", ");
        add(b, services[i].name);
        add(b, " ");
        add_decimal(b, services[i].port);
    }
}
