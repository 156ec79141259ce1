// SPDX-License-Identifier: Apache-2.0
//
// vsock connections: the table, the life of a connection, credit, and whose turn it is to send.
//
// Life of a connection. Passive: REQUEST comes in -> open (RESPONSE is due before anything else). Active: connecting
// (REQUEST is due) -> open when RESPONSE comes. Open -> closing once our SHUTDOWN of both directions is sent. From any
// state RST, in or out, takes it off the table; it is then dead until the device has given its packets back.

#ifndef CONNECTION_H
#define CONNECTION_H

#include "ring.h"
#include "types.h"
#include "vsock.h"

struct connection;

// What stands behind a port. Callbacks may be NULL.
struct service {
    const char *name;
    u32 port;
    // How much the peer may send before we say that we consumed it; 0: as much as the ring holds.
    u32 buf_alloc;
    bool with_ring;
    bool seqpacket;
    bool (*open)(struct connection *c); // false: refuse
    void (*established)(struct connection *c);
    // A payload came in. False: it does not fit, which only a peer that ignores credit can bring about.
    bool (*receive)(struct connection *c, const u8 *bytes, u32 length, u32 flags);
    // The next piece to send, if any; and: that many bytes of it were sent. A service without peek only listens.
    bool (*peek)(struct connection *c, struct piece *piece);
    void (*advance)(struct connection *c, u32 length);
    // Nothing will follow from our side: time to close.
    bool (*finished)(const struct connection *c);
    void (*closed)(struct connection *c);
};

enum connection_state {
    CONNECTION_FREE,
    CONNECTION_CONNECTING,
    CONNECTION_OPEN,
    CONNECTION_CLOSING,
    CONNECTION_DEAD,
};

// Packets in flight whose payload lies in the connection's ring: tx slots, in the order of sending; 0: none.
struct flight {
    u16 first;
    u16 last;
};

struct connection {
    u64 peer_cid;
    u32 peer_port;
    u32 local_port;
    const struct service *service;
    u64 closing_since; // rdtsc
    u64 stamp;         // the service's own
    u32 phase;         // the service's own
    struct ring ring;

    // Receiving. Counters wrap.
    u32 buf_alloc;
    u32 rx_count;  // bytes received
    u32 fwd_count; // of these, consumed
    u32 fwd_told;  // fwd_count as the peer knows it
    u32 held;      // received bytes that the service keeps for later, beside those in the ring
    // Sending. Counters wrap.
    u32 tx_count;
    u32 peer_buf_alloc;
    u32 peer_fwd_count;

    struct flight flight;
    u16 hash_next; // also the free list
    u16 turn_next;
    u16 closing_previous;
    u16 closing_next;
    u8 state; // enum connection_state
    u8 type;  // enum vsock_type
    u8 due;   // packets to send before anything else
    u8 peer_shutdown;
    bool waiting_turn;
    bool credit_asked; // by us, since we last had any
    bool peer_asked;   // the peer asked, and was not told of all its room yet
    bool hungry;       // packets in flight hold back credit that the peer needs
};

// Take memory for the table. Call once, after vsock_start's memory is taken.
void connections_setup(void);
// Forget everything, as after a reset of the device.
void connections_restart(void);
// The other side is gone (transport reset): close everything without a word.
void connections_drop_all(void);

// vsock.c hands in a packet; there must be room for a reply (connection_can_receive).
void connection_receive(const struct virtio_vsock_hdr *hdr, const u8 *payload);
bool connection_can_receive(void);
struct flight *connection_flight(u16 number);
void connection_ring_sent(u16 number, u32 bytes);

// Connect to a port of the host (VSOCK_CID_HOST) or of another guest. NULL: no memory or no port left.
struct connection *connection_connect(u64 cid, u32 port, const struct service *service);
// Break a connection off with RST.
void connection_abort(struct connection *c);
// There may be something to send: put it in the line for a turn.
void connection_schedule(struct connection *c);

// Send what is there to send, in turns. Returns whether anything was sent or could be.
bool connections_send(void);
// Does somebody wait for packets in flight to come back?
bool connections_want_tx(void);

u32 connections_active(void);
u32 connections_limit(void);

#endif
