// SPDX-License-Identifier: Apache-2.0
// What the web server has to show: a page about this guest, and the same as JSON.

#ifndef HTTP_PAGES_H
#define HTTP_PAGES_H

#include "text.h"
#include "types.h"

// What a page says that only the server knows.
struct http_facts {
    u64 requests; // the one that asks included
    u32 sessions;
};

void http_pages_setup(u64 memory_bytes);
void http_add_page(struct builder *b, const struct http_facts *facts);
void http_add_stats(struct builder *b, const struct http_facts *facts);

#endif
