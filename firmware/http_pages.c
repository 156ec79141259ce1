// SPDX-License-Identifier: Apache-2.0
//
// The page needs nothing but itself, and its links are relative: it works behind a proxy at any path.

#include "http_pages.h"
#include "clock.h"
#include "connection.h"
#include "services.h"
#include "stats.h"
#include "version.h"
#include "vsock.h"

#define US_PER_SECOND 1000000UL

static u64 memory;

void http_pages_setup(u64 memory_bytes)
{
    memory = memory_bytes;
}

static const char page_start[] =
    "<!DOCTYPE html>\n"
    "<html lang=\"en\">\n"
    "<head>\n"
    "<meta charset=\"utf-8\">\n"
    "<meta name=\"viewport\" content=\"width=device-width\">\n"
    "<meta name=\"color-scheme\" content=\"light dark\">\n"
    "<title>tsvmm guest</title>\n"
    "<style>\n"
    ":root{color-scheme:light dark}\n"
    "body{font:15px/1.5 system-ui,sans-serif;max-width:34rem;margin:1.5rem auto;padding:0 1rem}\n"
    "h1{font-size:1.4rem;margin:0 0 .3rem}\n"
    "p{margin:.3rem 0 1rem}\n"
    "dl{display:grid;grid-template-columns:max-content 1fr;gap:.2rem 1.2rem;margin:1rem 0}\n"
    "dt{opacity:.7}\n"
    "dd{margin:0;font-variant-numeric:tabular-nums}\n"
    "</style>\n"
    "</head>\n"
    "<body>\n"
    "<h1>Hello from a microVM</h1>\n"
    "<p>This page comes from the guest that is built into tsvmm: no kernel, no disk, no network card. It went through "
    "virtio-vsock.</p>\n"
    "<dl>\n";

static const char page_end[] =
    "</dl>\n"
    "<p><a href=\"stats\">The same as JSON</a> &middot; <a href=\"bytes/1048576\">a mebibyte of text</a></p>\n"
    "</body>\n"
    "</html>\n";

static void add_term(struct builder *b, const char *term)
{
    add(b, "<dt>");
    add(b, term);
    add(b, "</dt><dd>");
}

static void add_end_of_term(struct builder *b)
{
    add(b, "</dd>\n");
}

static void add_count(struct builder *b, const char *term, u64 count)
{
    add_term(b, term);
    add_decimal(b, count);
    add_end_of_term(b);
}

void http_add_page(struct builder *b, const struct http_facts *facts)
{
    u64 seconds = clock_uptime_us() / US_PER_SECOND;
    add_bytes(b, page_start, sizeof page_start - 1);
    add_term(b, "Guest");
    add(b, "tsvmm guest " FIRMWARE_VERSION);
    add_end_of_term(b);
    add_count(b, "Context id", vsock_cid());
    add_term(b, "Memory");
    // Rounded: firmware tables leave holes.
    add_decimal(b, (memory + (1 << 19)) >> 20);
    add(b, " MiB");
    add_end_of_term(b);
    add_term(b, "Uptime");
    add_decimal(b, seconds / 3600);
    add(b, ":");
    add_padded(b, seconds / 60 % 60, 2);
    add(b, ":");
    add_padded(b, seconds % 60, 2);
    add_end_of_term(b);
    add_count(b, "Requests", facts->requests);
    add_count(b, "vsock connections", connections_active());
    add_term(b, "Services");
    add_services(b);
    add_end_of_term(b);
    add_bytes(b, page_end, sizeof page_end - 1);
}

static void add_member(struct builder *b, const char *name, u64 value)
{
    add(b, ",\"");
    add(b, name);
    add(b, "\":");
    add_decimal(b, value);
}

void http_add_stats(struct builder *b, const struct http_facts *facts)
{
    add(b, "{\"guest\":\"tsvmm guest\",\"version\":\"" FIRMWARE_VERSION "\"");
    add_member(b, "cid", vsock_cid());
    add_member(b, "memory_bytes", memory);
    add_member(b, "uptime_us", clock_uptime_us());
    add_member(b, "requests", facts->requests);
    add_member(b, "http_connections", facts->sessions);
    add_member(b, "connections", connections_active());
    add_member(b, "accepted", stats.accepted);
    add_member(b, "refused", stats.refused);
    add_member(b, "rx_packets", stats.rx_packets);
    add_member(b, "rx_bytes", stats.rx_bytes);
    add_member(b, "tx_packets", stats.tx_packets);
    add_member(b, "tx_bytes", stats.tx_bytes);
    add(b, "}\n");
}
