// SPDX-License-Identifier: Apache-2.0
// The head of an HTTP/1.1 request (RFC 9112): its end is found and its fields are checked here. Nothing is kept.

#ifndef HTTP_REQUEST_H
#define HTTP_REQUEST_H

#include "types.h"

// Request line and fields together.
#define HTTP_MAX_HEAD 8192U

enum http_status {
    HTTP_OK = 200,
    HTTP_BAD_REQUEST = 400,
    HTTP_NOT_FOUND = 404,
    HTTP_METHOD_NOT_ALLOWED = 405,
    HTTP_CONTENT_TOO_LARGE = 413,
    HTTP_FIELDS_TOO_LARGE = 431,
    HTTP_NOT_IMPLEMENTED = 501,
    HTTP_VERSION_NOT_SUPPORTED = 505,
};

struct http_request {
    enum http_status status; // HTTP_OK, or what to answer without looking at the rest
    bool get;                // GET or HEAD
    bool head;
    bool keep_alive;
    const char *path; // begins with a slash; without query
    u32 path_length;
    u64 body_length; // what follows the head and belongs to the request
};

// How long the head at the start of `bytes` is, with the empty line that ends it; 0: its end has not come. Lines end
// with CRLF or LF. `scanned` is where an earlier look at the same head stopped, and moves on.
u32 http_head_length(const u8 *bytes, u32 length, u32 *scanned);
// `length` as http_head_length has it.
struct http_request http_parse(const u8 *bytes, u32 length);
// A decimal number of `length` digits. False: it is none, or larger than `max`.
bool http_number(const char *digits, u32 length, u64 max, u64 *value);

#endif
