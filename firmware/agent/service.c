// SPDX-License-Identifier: Apache-2.0
//
// A service of the host, offered inside the guest: a Unix socket and, if asked for, a port of 127.0.0.1. The session lasts
// as long as the service; each connection to it has a process that calls the host and asks for the service by its name.

#include "session.h"

#define BACKLOG 128
#define NAME_MAX_BYTES 63U
// ".sock", and the decimal digits of a process.
#define SUFFIX_BYTES 15
#define FOLDER_MODE 0755
// The one that served it before may be about to end: its host has gone, as with a snapshot that was restored.
#define PORT_ATTEMPTS 20
#define PORT_PAUSE_MS 100

static char service_name[NAME_MAX_BYTES + 1];
static char socket_path[UNIX_PATH_BYTES];
// The socket that is ours: another may have taken the name since.
static struct stat bound;

static bool is_name(const char *name)
{
    size_t length = text_length(name);
    for (size_t i = 0; i < length; i++) {
        char letter = name[i];
        bool plain = (letter >= 'a' && letter <= 'z') || (letter >= 'A' && letter <= 'Z') ||
                     (letter >= '0' && letter <= '9');
        if (!plain && (i == 0 || (letter != '-' && letter != '_' && letter != '.')))
            return false;
    }
    return length > 0 && length <= NAME_MAX_BYTES;
}

static void remove_socket(void)
{
    struct stat present;
    if (sys2(lstat, socket_path, &present) == 0 && present.st_dev == bound.st_dev && present.st_ino == bound.st_ino)
        sys1(unlink, socket_path);
}

// The folder and those above it, as far as they are not there.
static void make_folders(char *path)
{
    for (size_t i = 1; path[i] != '\0'; i++) {
        if (path[i] != '/')
            continue;
        path[i] = '\0';
        sys2(mkdir, path, FOLDER_MODE);
        path[i] = '/';
    }
}

static size_t append(char *to, size_t at, const char *text)
{
    copy_bytes(to + at, text, text_length(text) + 1);
    return at + text_length(text);
}

// Binds under another name and renames: the socket that it replaces, if any, has an inode of its own until then, so that
// whoever made that one does not take this one for it.
static long bind_socket(int fd)
{
    char temporary[UNIX_PATH_BYTES];
    union address address;
    struct stat present;
    bool there = sys2(lstat, socket_path, &present) == 0;
    if (there && (present.st_mode & S_IFMT) != S_IFSOCK)
        return -EADDRINUSE;
    size_t end = append(temporary, 0, socket_path);
    end += write_decimal(temporary + end, (u64)sys0(getpid));
    temporary[end] = '\0';
    sys1(unlink, temporary);
    u32 size = make_address(&address, temporary, 0, 0);
    long error = sys3(bind, fd, &address, size);
    if (error == 0)
        error = sys2(lstat, temporary, &bound);
    if (error == 0)
        error = sys2(rename, temporary, socket_path);
    if (error < 0)
        sys1(unlink, temporary);
    return error;
}

static int listen_at_socket(void)
{
    const char *folder = services_folder();
    if (text_length(folder) + 1 + text_length(service_name) + SUFFIX_BYTES >= UNIX_PATH_BYTES)
        fail(ERROR_TOO_LARGE, 0, "the path of the service's socket is too long");
    append(socket_path, append(socket_path, append(socket_path, append(socket_path, 0, folder), "/"), service_name),
           ".sock");
    make_folders(socket_path);
    int fd = (int)sys3(socket, AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    long error = fd < 0 ? fd : bind_socket(fd);
    if (error == 0) {
        clean_up = remove_socket;
        error = sys2(listen, fd, BACKLOG);
    }
    if (error < 0)
        fail(ERROR_GUEST_PORT, error, socket_path);
    return fd;
}

static int listen_at_port(u32 port)
{
    long fd = listen_at_loopback(port, BACKLOG);
    for (int i = 1; fd == -EADDRINUSE && i < PORT_ATTEMPTS; i++) {
        sys3(poll, NULL, 0, PORT_PAUSE_MS);
        fd = listen_at_loopback(port, BACKLOG);
    }
    if (fd < 0) {
        char where[32];
        size_t at = append(where, 0, "127.0.0.1:");
        where[at + write_decimal(where + at, port)] = '\0';
        fail(ERROR_GUEST_PORT, fd, where);
    }
    return (int)fd;
}

// The process of one connection. Until both sides have ended it in order, its end is a reset for the program.
static _Noreturn void call_host(int local, bool tcp)
{
    struct frame frame;
    local = keep_only(local);
    reset_on_close(local, true);
    int host = connect_to_services();
    if (host < 0)
        exit_process(0);
    begin_session(host);
    size_t length = text_length(service_name);
    copy_bytes(outgoing(), service_name, length);
    if (!send_outgoing(FRAME_SERVICE, (u32)length))
        exit_process(0);
    receive_or_exit(&frame);
    if (frame.type == FRAME_CONNECTED)
        relay(local, tcp);
    exit_process(0);
}

// False when there is nothing for it to be had of at present.
static void take_connection(int listener, bool tcp)
{
    int local = (int)sys4(accept4, listener, 0, 0, SOCK_CLOEXEC);
    if (local < 0) {
        // Short of descriptors or memory: that passes.
        if (local != -EAGAIN && local != -EINTR && local != -ECONNABORTED)
            sleep_seconds(1);
        return;
    }
    long child = sys0(fork);
    if (child == 0)
        call_host(local, tcp);
    if (child < 0)
        reset_on_close(local, true);
    close_fd(local);
}

void serve_service(struct frame *request)
{
    struct frame frame;
    u32 port = request->length < 4 ? ~0U : load_u32(request->payload);
    if (port > 65535)
        fail_protocol("SERVE names no port");
    char *name = payload_text(request, 4);
    if (!is_name(name))
        fail_protocol("SERVE names no service");
    append(service_name, 0, name);
    // Nobody waits for the processes of its connections.
    ignore_signal(SIGCHLD);
    struct pollfd polls[3] = {{connection, POLLIN, 0}, {listen_at_socket(), POLLIN, 0}, {-1, POLLIN, 0}};
    if (port != 0)
        polls[2].fd = listen_at_port(port);
    if (!send_outgoing(FRAME_SERVING, 0)) {
        remove_socket();
        exit_process(0);
    }
    for (;;) {
        if (sys3(poll, polls, 3, -1) < 0)
            continue;
        if (polls[0].revents != 0) {
            // The host has nothing to say but that it is over.
            receive_or_exit(&frame);
            fail_protocol("a service takes no frames");
        }
        if (polls[1].revents != 0)
            take_connection(polls[1].fd, false);
        if (polls[2].revents != 0)
            take_connection(polls[2].fd, true);
    }
}
