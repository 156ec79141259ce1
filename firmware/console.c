// SPDX-License-Identifier: Apache-2.0
//
// Commands, line editing, and the session that `connect`, `chat` and `listen` open: lines from the other side are shown,
// lines typed go there. `connect` echoes what it hears; the other two do not, so that two guests can talk to each other.

#include "console.h"
#include "connection.h"
#include "machine.h"
#include "serial.h"
#include "services.h"
#include "stats.h"
#include "text.h"
#include "version.h"
#include "vsock.h"

#define MAX_LINE 256
// Characters in one call of console_poll, so that pasting does not hold up the services.
#define POLL_BATCH 64

#define PORT_I8042_COMMAND 0x64
#define I8042_RESET_CPU 0xfe
// ACPI's sleep control register: SLP_TYP 5 in bits 4:2, SLP_EN in bit 5.
#define PORT_SLEEP_CONTROL 0x600
#define SLEEP_S5 (5 << 2 | 1 << 5)

#define KEY_CTRL_C 0x03
#define KEY_BACKSPACE 0x08
#define KEY_CTRL_U 0x15
#define KEY_DELETE 0x7f

#define PROMPT "> "

// A session's own share of its ring, beside what the host may send: room for lines typed.
#define SESSION_BUF_ALLOC (RING_MIN_SIZE / 4)

struct stats stats;

static char typed[MAX_LINE];
static u32 typed_length;
static bool after_return;

static bool has_vsock;
static struct connection *session; // connecting or open, as long as the console follows it
static bool listening;             // the next connection to the port becomes the session
static u32 listening_port;
static char heard[MAX_LINE]; // of a line from the other side
static u32 heard_length;

// Long answers are put together first: one string costs less than its parts.
static char text_bytes[1536];
static struct builder text = {text_bytes, sizeof text_bytes, 0};

static void flush(void)
{
    serial_write(text.bytes, text.length);
    text.length = 0;
}

// Whether lines typed are for another side, be it still to come.
static bool in_session(void)
{
    return session != NULL || listening;
}

static void add_prompt(void)
{
    if (!in_session()) {
        add(&text, PROMPT);
    }
}

// The session's end of its connection. connection.phase: the console is done with it.

static void add_heard(void)
{
    add(&text, "< ");
    for (u32 i = 0; i < heard_length; i++) {
        // The other side's bytes must not steer the terminal.
        char c = heard[i] >= ' ' && heard[i] < KEY_DELETE ? heard[i] : '.';
        add_bytes(&text, &c, 1);
    }
    add(&text, "\r\n");
    heard_length = 0;
}

static void show_heard(void)
{
    // A line in the making moves below what comes in.
    if (typed_length != 0) {
        add(&text, "\r\n");
    }
    add_heard();
    add_bytes(&text, typed, typed_length);
    flush();
}

static void session_established(struct connection *c)
{
    if (c == session) {
        serial_print("connected; a lone . ends it\r\n");
    }
}

// Somebody connects to the port that `listen` named.
static bool session_taken(struct connection *c)
{
    if (!listening) {
        return false;
    }
    listening = false;
    session = c;
    session_established(c);
    return true;
}

static void hear(struct connection *c, const u8 *bytes, u32 length)
{
    for (u32 i = 0; c == session && i < length; i++) {
        if (bytes[i] == '\n') {
            show_heard();
        } else if (bytes[i] != '\r') {
            heard[heard_length++] = (char)bytes[i];
            if (heard_length == sizeof heard) {
                show_heard();
            }
        }
    }
}

static bool chat_receive(struct connection *c, const u8 *bytes, u32 length, u32 flags)
{
    (void)flags;
    hear(c, bytes, length);
    return true;
}

static bool session_receive(struct connection *c, const u8 *bytes, u32 length, u32 flags)
{
    hear(c, bytes, length);
    return ring_write(&c->ring, bytes, length, flags);
}

static bool session_peek(struct connection *c, struct piece *piece)
{
    return ring_peek(&c->ring, piece);
}

static void session_advance(struct connection *c, u32 length)
{
    ring_advance(&c->ring, length);
}

static bool session_finished(const struct connection *c)
{
    return c->phase != 0 || (c->peer_shutdown & VIRTIO_VSOCK_SHUTDOWN_SEND) != 0;
}

static void session_closed(struct connection *c)
{
    if (c != session) {
        return;
    }
    if (typed_length != 0) {
        add(&text, "\r\n");
        typed_length = 0;
    }
    if (heard_length != 0) {
        add_heard();
    }
    if (c->state == CONNECTION_CONNECTING) {
        add(&text, "refused\r\n");
    } else {
        add(&text, c->peer_cid == VSOCK_CID_HOST ? "closed by the host\r\n" : "closed by the guest\r\n");
    }
    session = NULL;
    add_prompt();
    flush();
}

static const struct service session_service = {
    .name = "console",
    .buf_alloc = SESSION_BUF_ALLOC,
    .with_ring = true,
    .established = session_established,
    .receive = session_receive,
    .peek = session_peek,
    .advance = session_advance,
    .finished = session_finished,
    .closed = session_closed,
};

static const struct service chat_service = {
    .name = "chat",
    .buf_alloc = SESSION_BUF_ALLOC,
    .with_ring = true,
    .established = session_established,
    .receive = chat_receive,
    .peek = session_peek,
    .advance = session_advance,
    .finished = session_finished,
    .closed = session_closed,
};

static const struct service listen_service = {
    .name = "listen",
    .buf_alloc = SESSION_BUF_ALLOC,
    .with_ring = true,
    .open = session_taken,
    .receive = chat_receive,
    .peek = session_peek,
    .advance = session_advance,
    .finished = session_finished,
    .closed = session_closed,
};

const struct service *console_service_at(u32 port)
{
    return listening && port == listening_port ? &listen_service : NULL;
}

static void leave_session(void)
{
    struct connection *c = session;
    session = NULL;
    listening = false;
    heard_length = 0;
    if (c == NULL) {
        // Nobody has come.
    } else if (c->state == CONNECTION_OPEN) {
        c->phase = 1;
        connection_schedule(c);
    } else {
        connection_abort(c);
    }
    add(&text, "closed\r\n");
}

static void send_line(void)
{
    if (text_equal(typed, ".")) {
        leave_session();
        return;
    }
    typed[typed_length] = '\n';
    if (session == NULL || session->state != CONNECTION_OPEN) {
        add(&text, "not connected yet\r\n");
    } else if (typed_length + 1 > session->ring.size - SESSION_BUF_ALLOC - ring_used(&session->ring)) {
        add(&text, "the other side does not read; line dropped\r\n");
    } else {
        ring_write(&session->ring, (const u8 *)typed, typed_length + 1, 0);
        connection_schedule(session);
    }
}

static void open_session(const char *argument, const struct service *service)
{
    u64 cid = VSOCK_CID_HOST;
    u64 port;
    const char *rest = text_number(argument, &port);
    if (rest != NULL && *rest == ':') {
        cid = port;
        rest = text_number(rest + 1, &port);
    }
    if (rest == NULL || *rest != '\0' || port > 0xffffffff || cid > 0xffffffff) {
        add(&text, "usage: connect or chat [<cid>:]<port>\r\n");
    } else if (!has_vsock) {
        add(&text, "no vsock device\r\n");
    } else {
        session = connection_connect(cid, (u32)port, service);
        if (session == NULL) {
            add(&text, "out of memory\r\n");
        }
    }
}

static void command_connect(const char *argument)
{
    open_session(argument, &session_service);
}

static void command_chat(const char *argument)
{
    open_session(argument, &chat_service);
}

static void command_listen(const char *argument)
{
    u64 port;
    const char *rest = text_number(argument, &port);
    if (rest == NULL || *rest != '\0' || port > 0xffffffff) {
        add(&text, "usage: listen <port>\r\n");
    } else if (!has_vsock) {
        add(&text, "no vsock device\r\n");
    } else if (service_at((u32)port) != NULL) {
        add(&text, "a service has that port\r\n");
    } else {
        listening = true;
        listening_port = (u32)port;
        add(&text, "listening; a lone . ends it\r\n");
    }
}

static void add_counter(const char *name, u64 value)
{
    add(&text, name);
    add_decimal(&text, value);
}

static void command_stats(const char *argument)
{
    (void)argument;
    add_counter("connections: active ", connections_active());
    add_counter(" of ", connections_limit());
    add_counter(", accepted ", stats.accepted);
    add_counter(", connected ", stats.connected);
    add_counter(", refused ", stats.refused);
    add_counter("\r\nreceived: packets ", stats.rx_packets);
    add_counter(", bytes ", stats.rx_bytes);
    add_counter(", resets ", stats.resets_received);
    add_counter(", malformed ", stats.rx_malformed);
    add_counter("\r\nsent: packets ", stats.tx_packets);
    add_counter(", bytes ", stats.tx_bytes);
    add_counter(", resets ", stats.resets_sent);
    add_counter(", credit updates ", stats.credit_updates);
    add_counter(", credit requests ", stats.credit_requests);
    add_counter("\r\ndevice: kicks ", stats.kicks);
    add_counter(", interrupts ", stats.interrupts);
    add_counter(", idle traps ", stats.idles);
    add_counter(", transport resets ", stats.transport_resets);
    add(&text, "\r\n");
}

static void command_reboot(const char *argument)
{
    (void)argument;
    outb(PORT_I8042_COMMAND, I8042_RESET_CPU);
    add(&text, "the machine did not reset\r\n");
}

static void command_poweroff(const char *argument)
{
    (void)argument;
    outb(PORT_SLEEP_CONTROL, SLEEP_S5);
    add(&text, "the machine did not power off\r\n");
}

static void command_fault(const char *argument)
{
    (void)argument;
    crash();
}

static void command_help(const char *argument);

static const struct command {
    const char *name;
    const char *usage;
    const char *help;
    void (*run)(const char *argument);
} commands[] = {
    {"help", "help", "this list", command_help},
    {"connect", "connect [<cid>:]<port>", "talk to a port of the host, or of a guest; a lone . ends it", command_connect},
    {"chat", "chat [<cid>:]<port>", "the same, and what comes is not echoed", command_chat},
    {"listen", "listen <port>", "chat with who connects to that port next", command_listen},
    {"stats", "stats", "what the services did", command_stats},
    {"reboot", "reboot", "reset the machine", command_reboot},
    {"poweroff", "poweroff", "switch the machine off", command_poweroff},
    {"fault", "fault", "crash on purpose (a triple fault)", command_fault},
};

static void command_help(const char *argument)
{
    (void)argument;
    for (u32 i = 0; i < COUNT_OF(commands); i++) {
        add(&text, commands[i].usage);
        for (size_t column = text_length(commands[i].usage); column < 24; column++) {
            add(&text, " ");
        }
        add(&text, commands[i].help);
        add(&text, "\r\n");
    }
    if (has_vsock) {
        add(&text, "services on vsock: ");
        add_services(&text);
        add(&text, "\r\n");
    }
}

static void run_command(const char *line)
{
    while (*line == ' ') {
        line++;
    }
    if (*line == '\0') {
        return;
    }
    for (u32 i = 0; i < COUNT_OF(commands); i++) {
        const char *rest = text_after(line, commands[i].name);
        if (rest != NULL && (*rest == '\0' || *rest == ' ')) {
            while (*rest == ' ') {
                rest++;
            }
            commands[i].run(rest);
            return;
        }
    }
    add(&text, "unknown command; type help\r\n");
}

static void end_line(void)
{
    add(&text, "\r\n");
    flush();
    typed[typed_length] = '\0';
    if (in_session()) {
        send_line();
    } else {
        run_command(typed);
    }
    typed_length = 0;
    add_prompt();
    flush();
}

static void erase(u32 count)
{
    for (; count != 0; count--) {
        typed_length--;
        add(&text, "\b \b");
    }
    flush();
}

static void take_key(char key)
{
    bool line_feed = key == '\n' && after_return;
    after_return = key == '\r';
    if (line_feed) {
        return;
    }
    switch (key) {
    case '\r':
    case '\n':
        end_line();
        break;
    case KEY_BACKSPACE:
    case KEY_DELETE:
        erase(typed_length != 0 ? 1 : 0);
        break;
    case KEY_CTRL_U:
        erase(typed_length);
        break;
    case KEY_CTRL_C:
        typed_length = 0;
        add(&text, "^C\r\n");
        if (in_session()) {
            leave_session();
        }
        add_prompt();
        flush();
        break;
    default:
        // One place is kept for the end of the line.
        if (key >= ' ' && key < KEY_DELETE && typed_length < sizeof typed - 1) {
            typed[typed_length++] = key;
            serial_put(key);
        }
    }
}

bool console_poll(void)
{
    u32 count = 0;
    i32 key;
    while (count < POLL_BATCH && (key = serial_read()) >= 0) {
        take_key((char)key);
        count++;
    }
    return count != 0;
}

void console_start(const struct boot_info *boot, bool vsock_works)
{
    has_vsock = vsock_works;
    add(&text, "tsvmm guest " FIRMWARE_VERSION ", ");
    // Rounded: firmware tables leave holes.
    add_decimal(&text, (boot->memory_bytes + (1 << 19)) >> 20);
    add(&text, " MiB\r\n");
    if (has_vsock) {
        add(&text, "vsock CID ");
        add_decimal(&text, vsock_cid());
        add(&text, ": ");
        add_services(&text);
    } else {
        add(&text, "no vsock device");
    }
    add(&text, "\r\ntype help\r\n" PROMPT);
    flush();
}

void console_lost_vsock(void)
{
    has_vsock = false;
    listening = false;
    serial_print("\r\nthe vsock device stopped working\r\n");
}
