// SPDX-License-Identifier: Apache-2.0
//
// Echo (RFC 862), discard (RFC 863), daytime (RFC 867) and character generator (RFC 864).

#include "services.h"
#include "clock.h"
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

// Days since 1970 to a date of the proleptic Gregorian calendar, counting years from 1 March so that the leap day comes
// last; 146097 days are 400 years.
static void add_date(struct builder *b, u64 days)
{
    u64 shifted = days + 719468;
    u64 era = shifted / 146097;
    u64 day_of_era = shifted % 146097;
    u64 year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365;
    u64 day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    u64 month_from_march = (5 * day_of_year + 2) / 153;
    u64 day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    u64 month = month_from_march < 10 ? month_from_march + 3 : month_from_march - 9;
    add_padded(b, era * 400 + year_of_era + (month <= 2), 4);
    add(b, "-");
    add_padded(b, month, 2);
    add(b, "-");
    add_padded(b, day, 2);
}

static bool daytime_peek(struct connection *c, struct piece *piece)
{
    // Made anew at each look: a line is short enough to be copied into its packet.
    static char line[32];
    struct builder b = {line, sizeof line, 0};
    u64 second = c->stamp % 86400;
    add_date(&b, c->stamp / 86400);
    add(&b, " ");
    add_padded(&b, second / 3600, 2);
    add(&b, ":");
    add_padded(&b, second / 60 % 60, 2);
    add(&b, ":");
    add_padded(&b, second % 60, 2);
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
#define PERIOD (PRINTABLE * (LINE_LENGTH + 2))

static u8 *pattern;

void services_setup(void)
{
    pattern = memory_take(PERIOD + VSOCK_MAX_PAYLOAD, 64);
}

// Filled in for the first connection, so that start-up does not wait for it.
static bool chargen_open(struct connection *c)
{
    static bool filled;
    (void)c;
    if (filled || pattern == NULL) {
        return filled;
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
    return true;
}

static bool chargen_peek(struct connection *c, struct piece *piece)
{
    *piece = (struct piece){pattern + c->phase, VSOCK_MAX_PAYLOAD, 0};
    return true;
}

static void chargen_advance(struct connection *c, u32 length)
{
    c->phase = (c->phase + length) % PERIOD;
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
