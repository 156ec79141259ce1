// SPDX-License-Identifier: Apache-2.0
//
// One connection of the host, which has a process of its own: whatever goes wrong in it ends nothing else.

#ifndef AGENT_SESSION_H
#define AGENT_SESSION_H

#include "protocol.h"
#include "system.h"

// A frame as it was received. The payload is followed by a NUL that is not part of it.
struct frame {
    u32 type;
    u32 length;
    u8 *payload;
};

enum received {
    RECEIVED_FRAME,
    // Not all of it is there yet; only with MSG_DONTWAIT.
    RECEIVED_PART,
    // The host has gone.
    RECEIVED_END,
};

extern int connection;
// What a kind of session has to put right when it fails or the host has gone. It may end the process itself.
extern void (*clean_up)(void);

// Closes everything but the connection: when the host has heard how it ended, a file system can be unmounted.
void close_files(void);

_Noreturn void serve(int fd, char **environment);
// Greets at a new connection, in a process that was another session's until now.
void begin_session(int fd);
// Closes everything but `fd` and the standard descriptors; its number from then on.
int keep_only(int fd);

// Takes the next frame. `flags`: 0 or MSG_DONTWAIT.
enum received receive(struct frame *frame, int flags);
// The same, waiting; a host that has gone ends the session.
void receive_or_exit(struct frame *frame);

// Where the payload of the next frame to send is put together: FRAME_MAX bytes.
u8 *outgoing(void);
// Sends it, waiting. False when the host has gone.
bool send_outgoing(u32 type, u32 length);
// The whole frame in `outgoing`'s buffer, header included, for those who send it by themselves; its size.
u32 seal_outgoing(u32 type, u32 length, const u8 **bytes);

// Reports and ends the session: waits until the host has seen it, that is, until it hangs up.
_Noreturn void fail(u32 code, long error, const char *text);
_Noreturn void fail_protocol(const char *text);
// Ends the session in order.
_Noreturn void finish_session(void);

// The payload as text. Fails the session when it has a NUL in it, or is empty.
char *payload_text(struct frame *frame, u32 offset);

// How often the init has started the agent; 0 where another init has.
extern u32 agent_starts;

// Loads the kernel modules that the image's list names, and says what fails.
void load_modules(void);

// Never returns in process 1, but in its child, which is to be the agent: with the environment for programs.
char **become_init(char **environment);

// A user of the guest.
#define IDENTITY_GROUPS 64
struct identity {
    u32 uid, gid;
    u32 group_count;
    u32 groups[IDENTITY_GROUPS];
    const char *home;
};

// Reads "user" or "user:group", which is changed. False when there is no such user or group.
bool find_identity(char *user, struct identity *identity);
// Becomes that user, for good; returns an error otherwise.
long assume_identity(const struct identity *identity);

void run_program(struct frame *frame, char **environment);
void receive_tree(struct frame *request);
void send_tree(struct frame *request);
void send_metrics(void);
void forward(struct frame *request);
_Noreturn void serve_service(struct frame *request);

// Brings the loopback interface up: an initramfs of a few programs has nobody who does. 0 or -errno.
long raise_loopback(void);
// A socket of 127.0.0.1 that listens and does not block, or -errno.
long listen_at_loopback(u32 port, int backlog);
// Carries a connection inside the guest until it has ended both ways, or is broken: its end is a reset then.
void relay(int local, bool tcp);
// Whether closing a TCP connection resets it.
void reset_on_close(int fd, bool reset);

// A new connection to where the host answers for its services, or -errno.
int connect_to_services(void);
// Where the sockets of services are.
const char *services_folder(void);

#define UNIX_PATH_BYTES 108

struct sockaddr_vm {
    u16 family, reserved;
    u32 port, cid;
    u8 flags, zero[3];
};
_Static_assert(sizeof(struct sockaddr_vm) == 16, "vsock(7)");

struct sockaddr_un {
    u16 family;
    char path[UNIX_PATH_BYTES];
};
_Static_assert(sizeof(struct sockaddr_un) == 110, "unix(7)");

union address {
    u16 family;
    struct sockaddr_vm vm;
    struct sockaddr_un local;
};

// That of a Unix socket where there is a path, else of vsock. Returns its size.
u32 make_address(union address *address, const char *path, u32 cid, u32 port);

#endif
