// SPDX-License-Identifier: Apache-2.0

#include "connection.h"
#include "clock.h"
#include "console.h"
#include "machine.h"
#include "services.h"
#include "stats.h"
#include "text.h"

// Connections are numbered from 1, so that 0 can end a list. The table takes at most a part of memory.
#define MAX_CONNECTIONS 16383
#define TABLE_MEMORY_SHARE 32

#define HASH_BITS 13
#define HASH_SIZE (1U << HASH_BITS)

// Resets owed to packets that belong to no connection.
#define MAX_RESETS 1024

// As Linux waits for the RST that answers a SHUTDOWN.
#define CLOSE_TIMEOUT_US 8000000UL

#define FIRST_EPHEMERAL_PORT 49152

// connection.due
#define DUE_REQUEST 0x1
#define DUE_RESPONSE 0x2
#define DUE_CREDIT_UPDATE 0x4

// Packets in one call of connections_send, so that receiving gets its turn, too.
#define SEND_BATCH 128

struct reset {
    u64 peer_cid;
    u32 peer_port;
    u32 local_port;
    u32 type;
};

static struct connection *table;
static u32 limit;     // connections that the table holds
static u32 used;      // of these, ever used
static u32 active;    // on the hash table
static u32 hungry;    // with hungry set
static u16 free_list; // through hash_next
static u16 buckets[HASH_SIZE];

static u16 turn_first, turn_last;
static u16 closing_first, closing_last;
static u32 next_port = FIRST_EPHEMERAL_PORT;

static struct reset resets[MAX_RESETS];
static u32 reset_in, reset_out;

static u16 number_of(const struct connection *c)
{
    return (u16)(c - table);
}

void connections_setup(void)
{
    u64 share = memory_left() / TABLE_MEMORY_SHARE / sizeof *table;
    limit = share < MAX_CONNECTIONS ? (u32)share : MAX_CONNECTIONS;
    table = memory_take((limit + 1) * sizeof *table, 64);
    if (table == NULL) {
        limit = 0;
    }
}

u32 connections_active(void)
{
    return active;
}

u32 connections_limit(void)
{
    return limit;
}

bool connection_can_receive(void)
{
    return reset_in - reset_out < MAX_RESETS;
}

bool connections_want_tx(void)
{
    return turn_first != 0 || reset_in != reset_out || hungry != 0;
}

struct flight *connection_flight(u16 number)
{
    return &table[number].flight;
}

static u16 *bucket(u64 peer_cid, u32 peer_port, u32 local_port)
{
    // Multiplying by odd constants with well-mixed bits spreads consecutive ports over the upper bits.
    u32 hash = peer_port * 0x9e3779b1U ^ local_port * 0x85ebca77U ^ (u32)peer_cid * 0xc2b2ae3dU;
    return &buckets[hash >> (32 - HASH_BITS)];
}

static struct connection *find(u64 peer_cid, u32 peer_port, u32 local_port, u32 type)
{
    for (u16 number = *bucket(peer_cid, peer_port, local_port); number != 0; number = table[number].hash_next) {
        struct connection *c = &table[number];
        if (c->peer_port == peer_port && c->local_port == local_port && c->peer_cid == peer_cid && c->type == type) {
            return c;
        }
    }
    return NULL;
}

static struct connection *create(u64 peer_cid, u32 peer_port, u32 local_port, u8 type, const struct service *service)
{
    u16 number = free_list;
    if (number != 0) {
        free_list = table[number].hash_next;
    } else if (used < limit) {
        number = (u16)++used;
    } else {
        return NULL;
    }
    struct connection *c = &table[number];
    *c = (struct connection){
        .peer_cid = peer_cid, .peer_port = peer_port, .local_port = local_port, .type = type, .service = service};
    if ((service->with_ring && !ring_open(&c->ring, type == VIRTIO_VSOCK_TYPE_SEQPACKET)) ||
        (service->open != NULL && !service->open(c))) {
        ring_close(&c->ring);
        c->hash_next = free_list;
        free_list = number;
        return NULL;
    }
    c->buf_alloc = service->buf_alloc != 0 ? service->buf_alloc : c->ring.size;
    u16 *head = bucket(peer_cid, peer_port, local_port);
    c->hash_next = *head;
    *head = number;
    active++;
    return c;
}

static void bury_if_done(struct connection *c)
{
    if (c->state == CONNECTION_DEAD && c->flight.first == 0 && !c->waiting_turn) {
        ring_close(&c->ring);
        c->state = CONNECTION_FREE;
        c->hash_next = free_list;
        free_list = number_of(c);
    }
}

static void set_hungry(struct connection *c, bool is_hungry)
{
    hungry += (u32)is_hungry - (u32)c->hungry;
    c->hungry = is_hungry;
}

// Take a connection off the table. Its ring stays while the device may read from it.
static void drop(struct connection *c)
{
    u16 number = number_of(c);
    u16 *link = bucket(c->peer_cid, c->peer_port, c->local_port);
    while (*link != number) {
        link = &table[*link].hash_next;
    }
    *link = c->hash_next;
    active--;
    if (c->state == CONNECTION_CLOSING) {
        *(c->closing_previous != 0 ? &table[c->closing_previous].closing_next : &closing_first) = c->closing_next;
        *(c->closing_next != 0 ? &table[c->closing_next].closing_previous : &closing_last) = c->closing_previous;
    }
    set_hungry(c, false);
    if (c->service->closed != NULL) {
        c->service->closed(c);
    }
    c->state = CONNECTION_DEAD;
    bury_if_done(c);
}

static void owe_reset(u64 peer_cid, u32 peer_port, u32 local_port, u32 type)
{
    if (connection_can_receive()) {
        resets[reset_in++ % MAX_RESETS] = (struct reset){peer_cid, peer_port, local_port, type};
    }
}

void connection_abort(struct connection *c)
{
    owe_reset(c->peer_cid, c->peer_port, c->local_port, c->type);
    drop(c);
}

void connections_drop_all(void)
{
    for (u32 number = 1; number <= used; number++) {
        struct connection *c = &table[number];
        if (c->state != CONNECTION_FREE && c->state != CONNECTION_DEAD) {
            drop(c);
        }
    }
    reset_out = reset_in;
}

void connections_restart(void)
{
    connections_drop_all();
    // What is still dead waits for packets that will not come back.
    for (u32 number = 1; number <= used; number++) {
        struct connection *c = &table[number];
        c->flight.first = 0;
        c->waiting_turn = false;
        bury_if_done(c);
    }
    turn_first = turn_last = 0;
}

void connection_schedule(struct connection *c)
{
    if (c->waiting_turn || c->state == CONNECTION_DEAD) {
        return;
    }
    u16 number = number_of(c);
    c->waiting_turn = true;
    c->turn_next = 0;
    *(turn_first == 0 ? &turn_first : &table[turn_last].turn_next) = number;
    turn_last = number;
}

// Credit, peer to us: how much it still believes it may send, and whether more is worth an update. A peer that asked
// may wait for room for all of a long message, so it is told of every bit until it has everything.
static u32 room_told(const struct connection *c)
{
    return c->buf_alloc - (c->rx_count - c->fwd_told);
}

static bool running_low(const struct connection *c)
{
    return room_told(c) < (c->peer_asked ? c->buf_alloc : c->buf_alloc / 2);
}

static void count_consumed(struct connection *c)
{
    // What is in the ring is not consumed. A service may put bytes of its own there, too, so the count only ever grows.
    u32 consumed = c->rx_count - ring_used(&c->ring) - c->held;
    if ((i32)(consumed - c->fwd_count) > 0) {
        c->fwd_count = consumed;
    }
    set_hungry(c, c->flight.first != 0 && running_low(c));
}

// Credit, us to peer.
static u32 peer_room(const struct connection *c)
{
    u32 in_flight = c->tx_count - c->peer_fwd_count;
    return in_flight < c->peer_buf_alloc ? c->peer_buf_alloc - in_flight : 0;
}

static void send(struct connection *c, u16 op, u32 flags, const void *payload, u32 length, u16 ring_owner)
{
    count_consumed(c);
    struct virtio_vsock_hdr hdr = {
        .src_cid = vsock_cid(),
        .dst_cid = c->peer_cid,
        .src_port = c->local_port,
        .dst_port = c->peer_port,
        .len = length,
        .type = c->type,
        .op = op,
        .flags = flags,
        .buf_alloc = c->buf_alloc,
        .fwd_cnt = c->fwd_count,
    };
    c->fwd_told = c->fwd_count;
    c->tx_count += length;
    // Every packet tells our credit.
    c->due &= ~DUE_CREDIT_UPDATE;
    c->peer_asked &= room_told(c) != c->buf_alloc;
    vsock_send(&hdr, payload, ring_owner);
    set_hungry(c, c->flight.first != 0 && running_low(c));
}

static void send_piece(struct connection *c, const struct piece *piece, u32 length)
{
    u32 flags = length == piece->length ? piece->flags : 0;
    u16 owner = 0;
    c->service->advance(c, length);
    if (c->service->with_ring && length != 0) {
        if (length <= VSOCK_INLINE_MAX && c->flight.first == 0) {
            // Copied into the packet, so the ring's bytes are free at once.
            ring_release(&c->ring, length);
        } else {
            owner = number_of(c);
        }
    }
    send(c, VIRTIO_VSOCK_OP_RW, flags, piece->bytes, length, owner);
}

static void begin_closing(struct connection *c)
{
    send(c, VIRTIO_VSOCK_OP_SHUTDOWN, VIRTIO_VSOCK_SHUTDOWN_BOTH, NULL, 0, 0);
    c->state = CONNECTION_CLOSING;
    c->closing_since = rdtsc();
    c->closing_next = 0;
    c->closing_previous = closing_last;
    *(closing_last != 0 ? &table[closing_last].closing_next : &closing_first) = number_of(c);
    closing_last = number_of(c);
}

// Send at most one packet. Returns whether there was one to send.
static bool take_turn(struct connection *c)
{
    if (c->due & (DUE_REQUEST | DUE_RESPONSE)) {
        u16 op = c->due & DUE_REQUEST ? VIRTIO_VSOCK_OP_REQUEST : VIRTIO_VSOCK_OP_RESPONSE;
        c->due = 0;
        send(c, op, 0, NULL, 0, 0);
        return true;
    }
    if (c->state == CONNECTION_OPEN) {
        const struct service *service = c->service;
        bool mute = service->peek != NULL && (c->peer_shutdown & VIRTIO_VSOCK_SHUTDOWN_RCV) != 0;
        struct piece piece;
        if (!mute && service->peek != NULL && service->peek(c, &piece)) {
            u32 length = min_u32(min_u32(piece.length, VSOCK_MAX_PAYLOAD), peer_room(c));
            if (length != 0 || piece.length == 0) {
                send_piece(c, &piece, length);
                return true;
            }
            if (!c->credit_asked) {
                c->credit_asked = true;
                stats.credit_requests++;
                send(c, VIRTIO_VSOCK_OP_CREDIT_REQUEST, 0, NULL, 0, 0);
                return true;
            }
        } else if (mute || (service->finished != NULL && service->finished(c))) {
            begin_closing(c);
            return true;
        }
    }
    if (c->state == CONNECTION_OPEN || c->state == CONNECTION_CLOSING) {
        // A service may have let go of what it held.
        count_consumed(c);
        if ((c->due & DUE_CREDIT_UPDATE) || (running_low(c) && c->fwd_told != c->fwd_count)) {
            stats.credit_updates++;
            send(c, VIRTIO_VSOCK_OP_CREDIT_UPDATE, 0, NULL, 0, 0);
            return true;
        }
    }
    return false;
}

// Give up on peers that do not answer our SHUTDOWN. There is no timer: whenever the loop comes by is soon enough.
static void expire(void)
{
    while (closing_first != 0 && connection_can_receive() &&
           rdtsc() - table[closing_first].closing_since > CLOSE_TIMEOUT_US * clock_ticks_per_us()) {
        connection_abort(&table[closing_first]);
    }
}

static void send_resets(void)
{
    for (; reset_out != reset_in && vsock_room() != 0; reset_out++) {
        const struct reset *r = &resets[reset_out % MAX_RESETS];
        struct virtio_vsock_hdr hdr = {
            .src_cid = vsock_cid(),
            .dst_cid = r->peer_cid,
            .src_port = r->local_port,
            .dst_port = r->peer_port,
            .type = (u16)r->type,
            .op = VIRTIO_VSOCK_OP_RST,
        };
        stats.resets_sent++;
        vsock_send(&hdr, NULL, 0);
    }
}

bool connections_send(void)
{
    u64 before = stats.tx_packets;
    expire();
    send_resets();
    for (u32 count = 0; count < SEND_BATCH && turn_first != 0 && vsock_room() != 0; count++) {
        struct connection *c = &table[turn_first];
        turn_first = c->turn_next;
        c->waiting_turn = false;
        if (c->state == CONNECTION_DEAD) {
            bury_if_done(c);
        } else if (take_turn(c)) {
            // There may be more: to the end of the line.
            connection_schedule(c);
        }
    }
    vsock_flush();
    // A batch may end with nothing sent and turns left.
    return stats.tx_packets != before || (turn_first != 0 && vsock_room() != 0);
}

void connection_ring_sent(u16 number, u32 bytes)
{
    struct connection *c = &table[number];
    if (c->state == CONNECTION_DEAD) {
        bury_if_done(c);
        return;
    }
    ring_release(&c->ring, bytes);
    count_consumed(c);
    if (running_low(c)) {
        connection_schedule(c);
    }
}

static void accept(const struct virtio_vsock_hdr *hdr)
{
    const struct service *service = service_at(hdr->dst_port);
    if (service == NULL) {
        service = console_service_at(hdr->dst_port);
    }
    bool type_known = hdr->type == VIRTIO_VSOCK_TYPE_STREAM ||
                      (hdr->type == VIRTIO_VSOCK_TYPE_SEQPACKET && vsock_seqpacket() && service != NULL &&
                       service->seqpacket);
    struct connection *c = NULL;
    if (service != NULL && type_known) {
        c = create(hdr->src_cid, hdr->src_port, hdr->dst_port, (u8)hdr->type, service);
    }
    if (c == NULL) {
        stats.refused++;
        owe_reset(hdr->src_cid, hdr->src_port, hdr->dst_port, hdr->type);
        return;
    }
    stats.accepted++;
    c->state = CONNECTION_OPEN;
    c->due = DUE_RESPONSE;
    c->peer_buf_alloc = hdr->buf_alloc;
    c->peer_fwd_count = hdr->fwd_cnt;
    connection_schedule(c);
}

struct connection *connection_connect(u64 cid, u32 port, const struct service *service)
{
    struct connection *c = NULL;
    for (u32 tries = 0; c == NULL && tries <= limit; tries++) {
        u32 local_port = next_port++;
        if (next_port == 0) {
            next_port = FIRST_EPHEMERAL_PORT;
        }
        if (find(cid, port, local_port, VIRTIO_VSOCK_TYPE_STREAM) == NULL) {
            c = create(cid, port, local_port, VIRTIO_VSOCK_TYPE_STREAM, service);
            break;
        }
    }
    if (c != NULL) {
        c->state = CONNECTION_CONNECTING;
        c->due = DUE_REQUEST;
        connection_schedule(c);
    }
    return c;
}

// Returns whether the peer kept to the rules.
static bool receive_payload(struct connection *c, const struct virtio_vsock_hdr *hdr, const u8 *payload)
{
    if (c->rx_count - c->fwd_count + hdr->len > c->buf_alloc) {
        return false;
    }
    c->rx_count += hdr->len;
    if (c->state == CONNECTION_OPEN && c->service->receive != NULL &&
        !c->service->receive(c, payload, hdr->len, hdr->flags)) {
        return false;
    }
    count_consumed(c);
    return true;
}

// Returns whether the connection lives on; where it does not, the peer is owed a reset.
static bool receive_op(struct connection *c, const struct virtio_vsock_hdr *hdr, const u8 *payload)
{
    if (c->state == CONNECTION_CONNECTING) {
        if (hdr->op != VIRTIO_VSOCK_OP_RESPONSE) {
            return false;
        }
        c->state = CONNECTION_OPEN;
        stats.connected++;
        if (c->service->established != NULL) {
            c->service->established(c);
        }
        return true;
    }
    switch (hdr->op) {
    case VIRTIO_VSOCK_OP_RW:
        return receive_payload(c, hdr, payload);
    case VIRTIO_VSOCK_OP_CREDIT_UPDATE:
        return true;
    case VIRTIO_VSOCK_OP_CREDIT_REQUEST:
        c->due |= DUE_CREDIT_UPDATE;
        c->peer_asked = true;
        return true;
    case VIRTIO_VSOCK_OP_SHUTDOWN:
        c->peer_shutdown |= hdr->flags & VIRTIO_VSOCK_SHUTDOWN_BOTH;
        // The peer neither sends nor receives: RST is the answer it waits for.
        return c->peer_shutdown != VIRTIO_VSOCK_SHUTDOWN_BOTH;
    default:
        return false;
    }
}

void connection_receive(const struct virtio_vsock_hdr *hdr, const u8 *payload)
{
    struct connection *c = find(hdr->src_cid, hdr->src_port, hdr->dst_port, hdr->type);
    if (hdr->op == VIRTIO_VSOCK_OP_RST) {
        // Never answered, known or not: the peer may have the port in use again.
        stats.resets_received++;
        if (c != NULL) {
            drop(c);
        }
        return;
    }
    if (c == NULL) {
        if (hdr->op == VIRTIO_VSOCK_OP_REQUEST) {
            accept(hdr);
        } else {
            owe_reset(hdr->src_cid, hdr->src_port, hdr->dst_port, hdr->type);
        }
        return;
    }
    c->peer_buf_alloc = hdr->buf_alloc;
    c->peer_fwd_count = hdr->fwd_cnt;
    if (!receive_op(c, hdr, payload)) {
        connection_abort(c);
        return;
    }
    if (peer_room(c) != 0) {
        c->credit_asked = false;
    }
    connection_schedule(c);
}
