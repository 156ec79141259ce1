// SPDX-License-Identifier: Apache-2.0
//
// Strict where requests are told apart (RFC 9112, 5 and 6): what two readers might understand differently is refused,
// with 400 and the end of the connection. Fields that do not matter to framing are passed over.

#include "http_request.h"
#include "text.h"

#define MAX_BODY (1UL << 53)

struct span {
    const char *bytes;
    u32 length;
};

struct fields {
    u32 hosts;
    u32 lengths;
    bool chunked;
    bool close;
    bool expects;
    u64 body_length;
};

u32 http_head_length(const u8 *bytes, u32 length, u32 *scanned)
{
    for (u32 i = *scanned; i < length; i++) {
        // The empty line: this line feed ends a line without anything but a carriage return.
        if (bytes[i] == '\n' &&
            ((i >= 1 && bytes[i - 1] == '\n') || (i >= 2 && bytes[i - 1] == '\r' && bytes[i - 2] == '\n'))) {
            return i + 1;
        }
    }
    *scanned = length;
    return 0;
}

bool http_number(const char *digits, u32 length, u64 max, u64 *value)
{
    u64 result = 0;
    for (u32 i = 0; i < length; i++) {
        u64 digit = (u8)digits[i] - (u64)'0';
        if (digit > 9 || result > (max - digit) / 10) {
            return false;
        }
        result = result * 10 + digit;
    }
    *value = result;
    return length != 0;
}

static char lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c | 0x20) : c;
}

static bool is(struct span s, const char *text)
{
    return s.length == text_length(text) && memcmp(s.bytes, text, s.length) == 0;
}

// Without regard to case; `text` is in lower case.
static bool is_word(struct span s, const char *text)
{
    u32 i = 0;
    while (i < s.length && text[i] != '\0' && lower(s.bytes[i]) == text[i]) {
        i++;
    }
    return i == s.length && text[i] == '\0';
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t';
}

static struct span trim(struct span s)
{
    for (; s.length != 0 && is_blank(s.bytes[0]); s.bytes++) {
        s.length--;
    }
    while (s.length != 0 && is_blank(s.bytes[s.length - 1])) {
        s.length--;
    }
    return s;
}

// tchar of RFC 9110, 5.6.2: what names of methods and fields are made of.
static bool is_token(struct span s)
{
    for (u32 i = 0; i < s.length; i++) {
        char c = lower(s.bytes[i]);
        bool letter_or_digit = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
        bool mark = false;
        for (const char *m = "!#$%&'*+-.^_`|~"; *m != '\0'; m++) {
            mark |= c == *m;
        }
        if (!letter_or_digit && !mark) {
            return false;
        }
    }
    return s.length != 0;
}

// Up to `end` (or all of it), which is passed over.
static struct span take_until(struct span *rest, char end)
{
    struct span taken = {rest->bytes, 0};
    while (taken.length < rest->length && taken.bytes[taken.length] != end) {
        taken.length++;
    }
    u32 passed = taken.length < rest->length ? taken.length + 1 : taken.length;
    rest->bytes += passed;
    rest->length -= passed;
    return taken;
}

static struct span take_line(struct span *rest)
{
    struct span line = take_until(rest, '\n');
    if (line.length != 0 && line.bytes[line.length - 1] == '\r') {
        line.length--;
    }
    return line;
}

static bool has_control(struct span s)
{
    for (u32 i = 0; i < s.length; i++) {
        if (((u8)s.bytes[i] < ' ' && s.bytes[i] != '\t') || s.bytes[i] == 0x7f) {
            return true;
        }
    }
    return false;
}

static void read_connection(struct span value, struct fields *fields)
{
    while (value.length != 0) {
        fields->close |= is_word(trim(take_until(&value, ',')), "close");
    }
}

static bool read_field(struct span line, struct fields *fields)
{
    struct span value = line;
    // Also refuses a blank before the colon and a line that continues the one before (both RFC 9112, 5).
    struct span name = take_until(&value, ':');
    if (name.length == line.length || !is_token(name) || has_control(value)) {
        return false;
    }
    value = trim(value);
    if (is_word(name, "host")) {
        fields->hosts++;
    } else if (is_word(name, "content-length")) {
        u64 length;
        if (!http_number(value.bytes, value.length, MAX_BODY, &length) ||
            (fields->lengths != 0 && length != fields->body_length)) {
            return false;
        }
        fields->lengths++;
        fields->body_length = length;
    } else if (is_word(name, "transfer-encoding")) {
        fields->chunked = true;
    } else if (is_word(name, "expect")) {
        fields->expects = true;
    } else if (is_word(name, "connection")) {
        read_connection(value, fields);
    }
    return true;
}

// "HTTP/" DIGIT "." DIGIT. Returns the major version and stores the minor one, or -1.
static i32 read_version(struct span s, u32 *minor)
{
    if (s.length != 8 || memcmp(s.bytes, "HTTP/", 5) != 0 || s.bytes[6] != '.' || s.bytes[5] < '0' ||
        s.bytes[5] > '9' || s.bytes[7] < '0' || s.bytes[7] > '9') {
        return -1;
    }
    *minor = (u32)(s.bytes[7] - '0');
    return s.bytes[5] - '0';
}

// The path of an origin-form or absolute-form target (RFC 9112, 3.2). False: it is of another form.
static bool read_target(struct span target, struct http_request *request)
{
    struct span scheme = {target.bytes, min_u32(target.length, 7)};
    if (is_word(scheme, "http://")) {
        target.bytes += scheme.length;
        target.length -= scheme.length;
        while (target.length != 0 && target.bytes[0] != '/' && target.bytes[0] != '?') {
            target.bytes++;
            target.length--;
        }
        if (target.length == 0 || target.bytes[0] == '?') {
            target = (struct span){"/", 1};
        }
    }
    struct span path = take_until(&target, '?');
    request->path = path.bytes;
    request->path_length = path.length;
    return path.length != 0 && path.bytes[0] == '/';
}

struct http_request http_parse(const u8 *bytes, u32 length)
{
    struct http_request request = {.status = HTTP_BAD_REQUEST};
    struct fields fields = {0};
    struct span rest = {(const char *)bytes, length};
    struct span line = take_line(&rest);
    struct span words = line;
    struct span method = take_until(&words, ' ');
    struct span target = take_until(&words, ' ');
    u32 minor = 0;
    i32 major = read_version(words, &minor);
    if (major < 0 || !is_token(method) || has_control(line)) {
        return request;
    }
    if (major != 1) {
        request.status = HTTP_VERSION_NOT_SUPPORTED;
        return request;
    }
    while ((line = take_line(&rest)).length != 0) {
        if (!read_field(line, &fields)) {
            return request;
        }
    }
    // RFC 9112: 3.2 about Host, 6.1 about a length beside a transfer coding.
    if (fields.hosts > 1 || (minor != 0 && fields.hosts == 0) || (fields.chunked && fields.lengths != 0)) {
        return request;
    }
    request.head = is(method, "HEAD");
    request.get = request.head || is(method, "GET");
    if (request.get && !read_target(target, &request)) {
        return request;
    }
    // A client of HTTP/1.0 gets one answer a connection. One that waits for 100 may or may not send its body.
    request.keep_alive = minor != 0 && !fields.close && !fields.expects;
    request.body_length = fields.body_length;
    request.status = fields.chunked ? HTTP_NOT_IMPLEMENTED : request.get ? HTTP_OK : HTTP_METHOD_NOT_ALLOWED;
    return request;
}
