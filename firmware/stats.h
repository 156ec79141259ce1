// SPDX-License-Identifier: Apache-2.0
// Counters since the start, shown by the console's `stats`.

#ifndef STATS_H
#define STATS_H

#include "types.h"

struct stats {
    u64 accepted;
    u64 connected; // by us
    u64 refused;   // requests answered with a reset
    u64 resets_sent;
    u64 resets_received;
    u64 rx_packets;
    u64 rx_bytes;
    u64 rx_malformed;
    u64 tx_packets;
    u64 tx_bytes;
    u64 credit_updates;
    u64 credit_requests;
    u64 kicks;
    u64 interrupts;
    u64 idles;
    u64 transport_resets;
};

extern struct stats stats;

#endif
