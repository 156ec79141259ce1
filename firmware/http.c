// SPDX-License-Identifier: Apache-2.0
//
// A web server (RFC 9110, RFC 9112): GET and HEAD of a few resources, connections that stay, one request at a time.
//
// A connection has a session: what was received and not looked at, and what is left of the answer. Requests that come
// while an answer is under way wait in the session, and hold back the peer's credit; nothing else does, for a peer may
// count packets against its credit, and a head may come in many. An answer is sent in pieces that fit beside a packet's
// header and are copied there, so that its memory is free at once; /bytes is sent from where the character generator's
// pattern lies.
//
// There is no timer, so nobody is ever too slow; but sessions are few. When one more is wanted, the connection that has
// been waiting longest for a request, or for the rest of one, is closed. One that is in the middle of an answer is not.

#include "http.h"
#include "calendar.h"
#include "clock.h"
#include "http_pages.h"
#include "machine.h"
#include "services.h"
#include "text.h"
#include "version.h"

#define MAX_SESSIONS 128
#define SESSION_MEMORY_SHARE 32
#define MAX_ANSWER 4096
// The beginning of a head, and what the peer still had credit for.
#define INPUT_SIZE (HTTP_MAX_HEAD + HTTP_BUF_ALLOC)
#define BUFFER_SIZE (INPUT_SIZE + MAX_ANSWER)
// Of what a request brings along and nobody wants.
#define MAX_IGNORED_BODY (1UL << 20)
// A TiB of /bytes.
#define MAX_BYTES (1UL << 40)

struct session {
    struct connection *owner; // NULL: free
    u64 waiting_since;        // rdtsc: for a request, or for the rest of one
    u8 *input;                // INPUT_SIZE
    char *answer;             // MAX_ANSWER
    u32 input_length;
    u32 scanned; // of the input, looked at for the end of a head
    u64 ignore;  // bytes of a request's body still to come
    u32 answer_length;
    u32 answer_sent;
    u64 bytes_left; // of /bytes, after the answer
    u32 bytes_phase;
    bool closing; // after this answer
};

static struct session sessions[MAX_SESSIONS];
static u8 *buffers; // an input and an answer for each, touched as they are used
static u32 limit;   // sessions that there are buffers for
static u32 session_count;
static u64 requests;

void http_setup(u64 memory_bytes)
{
    u64 share = memory_left() / SESSION_MEMORY_SHARE / BUFFER_SIZE;
    limit = share < MAX_SESSIONS ? (u32)share : MAX_SESSIONS;
    // When the pattern found no room there is none for this either.
    buffers = memory_take((u64)limit * BUFFER_SIZE, 64);
    if (buffers == NULL) {
        limit = 0;
    }
    http_pages_setup(memory_bytes);
}

// connection.stamp: NULL once the session was taken away.
static struct session *session_of(const struct connection *c)
{
    return (struct session *)c->stamp;
}

static bool answering(const struct session *s)
{
    return s->answer_sent != s->answer_length || s->bytes_left != 0;
}

static void let_go(struct connection *c)
{
    session_of(c)->owner = NULL;
    c->stamp = 0;
    c->held = 0;
    session_count--;
}

static struct session *take_session(void)
{
    struct session *idlest = NULL;
    for (u32 i = 0; i < limit; i++) {
        struct session *s = &sessions[i];
        if (s->owner == NULL) {
            return s;
        }
        if (!answering(s) && (idlest == NULL || s->waiting_since < idlest->waiting_since)) {
            idlest = s;
        }
    }
    if (idlest != NULL) {
        struct connection *c = idlest->owner;
        let_go(c);
        // Without a session it is finished.
        connection_schedule(c);
    }
    return idlest;
}

bool http_open(struct connection *c)
{
    struct session *s = take_session();
    if (s == NULL) {
        return false;
    }
    u8 *input = buffers + (u64)(s - sessions) * BUFFER_SIZE;
    *s = (struct session){
        .owner = c, .waiting_since = rdtsc(), .input = input, .answer = (char *)input + INPUT_SIZE};
    c->stamp = (u64)s;
    session_count++;
    return true;
}

void http_closed(struct connection *c)
{
    if (c->stamp != 0) {
        let_go(c);
    }
}

static const char *reason(enum http_status status)
{
    switch (status) {
    case HTTP_OK: return "OK";
    case HTTP_BAD_REQUEST: return "Bad Request";
    case HTTP_NOT_FOUND: return "Not Found";
    case HTTP_METHOD_NOT_ALLOWED: return "Method Not Allowed";
    case HTTP_CONTENT_TOO_LARGE: return "Content Too Large";
    case HTTP_FIELDS_TOO_LARGE: return "Request Header Fields Too Large";
    case HTTP_NOT_IMPLEMENTED: return "Not Implemented";
    case HTTP_VERSION_NOT_SUPPORTED: return "HTTP Version Not Supported";
    }
    return "";
}

// IMF-fixdate of RFC 9110, 5.6.7, if there is a clock.
static void add_date(struct builder *b)
{
    u64 now = clock_wall_seconds();
    if (now == 0) {
        return;
    }
    struct date_time t = calendar(now);
    add(b, "Date: ");
    add_bytes(b, &"SunMonTueWedThuFriSat"[t.weekday * 3], 3);
    add(b, ", ");
    add_padded(b, t.day, 2);
    add(b, " ");
    add_bytes(b, &"JanFebMarAprMayJunJulAugSepOctNovDec"[(t.month - 1) * 3], 3);
    add(b, " ");
    add_padded(b, t.year, 4);
    add(b, " ");
    add_padded(b, t.hour, 2);
    add(b, ":");
    add_padded(b, t.minute, 2);
    add(b, ":");
    add_padded(b, t.second, 2);
    add(b, " GMT\r\n");
}

struct content {
    enum http_status status;
    const char *type;
    struct builder body;
    u64 bytes; // of the pattern instead of a body
};

static bool path_is(const struct http_request *request, const char *path)
{
    return request->path_length == text_length(path) && memcmp(request->path, path, request->path_length) == 0;
}

// The resources. Fills in the body.
static void find_content(const struct http_request *request, struct content *content)
{
    static const char bytes_path[] = "/bytes/";
    const u32 prefix = sizeof bytes_path - 1;
    struct http_facts facts = {requests, session_count};
    content->status = HTTP_OK;
    content->type = "text/plain; charset=us-ascii";
    if (path_is(request, "/")) {
        content->type = "text/html; charset=utf-8";
        http_add_page(&content->body, &facts);
    } else if (path_is(request, "/stats")) {
        content->type = "application/json";
        http_add_stats(&content->body, &facts);
    } else if (request->path_length >= prefix && memcmp(request->path, bytes_path, prefix) == 0) {
        if (!http_number(request->path + prefix, request->path_length - prefix, MAX_BYTES, &content->bytes)) {
            content->status = HTTP_BAD_REQUEST;
        }
    } else {
        content->status = HTTP_NOT_FOUND;
    }
}

static void answer(struct session *s, const struct http_request *request)
{
    static char body[MAX_ANSWER];
    struct content content = {request->status, "text/plain; charset=us-ascii", {body, sizeof body, 0}, 0};
    requests++;
    if (content.status == HTTP_OK) {
        find_content(request, &content);
    }
    if (content.status != HTTP_OK) {
        add_decimal(&content.body, content.status);
        add(&content.body, " ");
        add(&content.body, reason(content.status));
        add(&content.body, "\n");
    }
    u64 length = content.bytes != 0 ? content.bytes : content.body.length;

    struct builder b = {s->answer, MAX_ANSWER, 0};
    add(&b, "HTTP/1.1 ");
    add_decimal(&b, content.status);
    add(&b, " ");
    add(&b, reason(content.status));
    add(&b, "\r\nServer: tsvmm-guest/" FIRMWARE_VERSION "\r\n");
    add_date(&b);
    add(&b, "Content-Type: ");
    add(&b, content.type);
    add(&b, "\r\nContent-Length: ");
    add_decimal(&b, length);
    add(&b, "\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n");
    if (content.status == HTTP_METHOD_NOT_ALLOWED) {
        add(&b, "Allow: GET, HEAD\r\n");
    }
    add(&b, s->closing ? "Connection: close\r\n\r\n" : "\r\n");
    if (!request->head) {
        add_bytes(&b, content.body.bytes, content.body.length);
        s->bytes_left = content.bytes;
        s->bytes_phase = 0;
    }
    s->answer_length = b.length;
    s->answer_sent = 0;
}

static void drop_input(struct session *s, u32 length)
{
    s->input_length -= length;
    s->scanned = 0;
    // Forwards, so that it may overlap.
    memcpy(s->input, s->input + length, s->input_length);
}

static void take_request(struct session *s, struct http_request request)
{
    if (request.status == HTTP_OK && request.body_length > MAX_IGNORED_BODY) {
        request.status = HTTP_CONTENT_TOO_LARGE;
    }
    // The end of a request is known only if its head was understood, and is worth waiting for only if it is near.
    s->closing = !request.keep_alive || request.status == HTTP_NOT_IMPLEMENTED || request.body_length > MAX_IGNORED_BODY;
    s->ignore = request.body_length;
    answer(s, &request);
}

// Empty lines before a request are passed over (RFC 9112, 2.2).
static u32 empty_lines(const struct session *s)
{
    u32 length = 0;
    while (length < s->input_length && (s->input[length] == '\r' || s->input[length] == '\n')) {
        length++;
    }
    return length;
}

// Take requests until one is to be answered or the rest of one is awaited.
static void work(struct session *s)
{
    while (!answering(s) && !s->closing && s->input_length != 0) {
        u32 passed = s->ignore != 0 ? (s->ignore < s->input_length ? (u32)s->ignore : s->input_length) : empty_lines(s);
        u32 head = min_u32(s->input_length, HTTP_MAX_HEAD);
        u32 length;
        if (passed != 0) {
            s->ignore -= s->ignore != 0 ? passed : 0;
            drop_input(s, passed);
        } else if ((length = http_head_length(s->input, head, &s->scanned)) != 0) {
            take_request(s, http_parse(s->input, length));
            drop_input(s, length);
        } else if (head == HTTP_MAX_HEAD) {
            take_request(s, (struct http_request){.status = HTTP_FIELDS_TOO_LARGE});
        } else {
            break;
        }
    }
    if (s->closing) {
        // Nobody will look at it.
        s->input_length = 0;
    }
    s->owner->held = answering(s) ? s->input_length : 0;
}

bool http_receive(struct connection *c, const u8 *bytes, u32 length, u32 flags)
{
    (void)flags;
    struct session *s = session_of(c);
    if (s == NULL || s->closing) {
        return true;
    }
    if (length > INPUT_SIZE - s->input_length) {
        return false;
    }
    memcpy(s->input + s->input_length, bytes, length);
    s->input_length += length;
    work(s);
    return true;
}

bool http_peek(struct connection *c, struct piece *piece)
{
    struct session *s = session_of(c);
    if (s == NULL) {
        return false;
    }
    // After an answer, what waited behind it.
    work(s);
    if (s->answer_sent != s->answer_length) {
        u32 left = s->answer_length - s->answer_sent;
        *piece = (struct piece){(const u8 *)s->answer + s->answer_sent, min_u32(left, VSOCK_INLINE_MAX), 0};
    } else if (s->bytes_left != 0) {
        u32 left = s->bytes_left < VSOCK_MAX_PAYLOAD ? (u32)s->bytes_left : VSOCK_MAX_PAYLOAD;
        *piece = (struct piece){chargen_bytes(s->bytes_phase), left, 0};
    } else {
        return false;
    }
    return true;
}

// The piece is sent after this, so the answer stays as it is until the next look.
void http_advance(struct connection *c, u32 length)
{
    struct session *s = session_of(c);
    if (s->answer_sent != s->answer_length) {
        s->answer_sent += length;
    } else {
        s->bytes_left -= length;
        s->bytes_phase = (s->bytes_phase + length) % CHARGEN_PERIOD;
    }
    if (!answering(s)) {
        s->waiting_since = rdtsc();
    }
}

bool http_finished(const struct connection *c)
{
    const struct session *s = session_of(c);
    return s == NULL ||
           (!answering(s) && (s->closing || (c->peer_shutdown & VIRTIO_VSOCK_SHUTDOWN_SEND) != 0));
}
