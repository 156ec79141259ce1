// SPDX-License-Identifier: Apache-2.0
// The web server on vsock: the callbacks of its service (connection.h says what they are for).

#ifndef HTTP_H
#define HTTP_H

#include "connection.h"
#include "http_request.h"

#define HTTP_PORT 80
#define HTTP_BUF_ALLOC 16384U

// Take memory. Call once, after the pattern of /bytes has taken its own. `memory_bytes` is what the page says of it.
void http_setup(u64 memory_bytes);

bool http_open(struct connection *c);
bool http_receive(struct connection *c, const u8 *bytes, u32 length, u32 flags);
bool http_peek(struct connection *c, struct piece *piece);
void http_advance(struct connection *c, u32 length);
bool http_finished(const struct connection *c);
void http_closed(struct connection *c);

#endif
