// SPDX-License-Identifier: Apache-2.0
//
// The guest agent: listens for the host, gives each connection a process of its own, and calls the host when it is
// ready. README.md describes it, docs/agent.md the protocol.
//
//   tsvmm-agent [--port N] [--ready-port N] [--service-port N] [--services FOLDER] [--daemon]
//   tsvmm-agent --init [--port N] ...                   as process 1
//   tsvmm-agent --unix PATH [--ready-unix PATH] [--service-unix PATH] ...         for tests, without a VM
//
// Only the host (CID 2) is served: whoever may talk to the agent may do anything in the guest.

#include "session.h"

#define VMADDR_CID_ANY 0xffffffffU
#define VMADDR_CID_HOST 2U
#define BACKLOG 128
#define EXIT_FAILURE_STATUS 1
#define EXIT_USAGE_STATUS 2
#define LONGEST_PAUSE_SECONDS 64U
#define DEFAULT_SERVICES_FOLDER "/run/tsvmm"
#define INIT_PID 1
#define WANTED ", neither built in (CONFIG_VSOCKETS, CONFIG_VIRTIO_VSOCKETS) nor by the module vmw_vsock_virtio_transport"

struct options {
    u32 port, ready_port, service_port;
    const char *local, *ready_local, *service_local, *services;
    bool daemon, init;
};

// Sessions ask for what they need of them.
static struct options options = {
    .port = DEFAULT_AGENT_PORT,
    .ready_port = DEFAULT_READY_PORT,
    .service_port = DEFAULT_SERVICE_PORT,
    .services = DEFAULT_SERVICES_FOLDER,
};

static _Noreturn void die(const char *what, long error)
{
    say_error(what, "", error);
    exit_process(EXIT_FAILURE_STATUS);
}

// The kernel gives process 1 the words of its command line that it does not know, and process 1 must not end.
static void refuse(const char *argument)
{
    if (sys0(getpid) == INIT_PID)
        return;
    say("tsvmm-agent: cannot make sense of ");
    say(argument);
    say("\nusage: tsvmm-agent [--port N] [--ready-port N] [--service-port N] [--services FOLDER] [--daemon]\n"
        "       tsvmm-agent --init [the same options]     as process 1\n"
        "       tsvmm-agent --unix PATH [--ready-unix PATH] [--service-unix PATH] [--services FOLDER] [--daemon]\n");
    exit_process(EXIT_USAGE_STATUS);
}

static void read_options(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (same_text(argv[i], "--daemon")) {
            options.daemon = true;
            continue;
        }
        if (same_text(argv[i], "--init")) {
            options.init = true;
            continue;
        }
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;
        bool known = false;
        if (value != NULL && same_text(argv[i], "--port"))
            known = read_decimal(value, &options.port);
        else if (value != NULL && same_text(argv[i], "--ready-port"))
            known = read_decimal(value, &options.ready_port);
        else if (value != NULL && same_text(argv[i], "--unix"))
            known = (options.local = value) != NULL && text_length(value) < UNIX_PATH_BYTES;
        else if (value != NULL && same_text(argv[i], "--ready-unix"))
            known = (options.ready_local = value) != NULL && text_length(value) < UNIX_PATH_BYTES;
        else if (value != NULL && same_text(argv[i], "--service-port"))
            known = read_decimal(value, &options.service_port);
        else if (value != NULL && same_text(argv[i], "--service-unix"))
            known = (options.service_local = value) != NULL && text_length(value) < UNIX_PATH_BYTES;
        else if (value != NULL && same_text(argv[i], "--services"))
            known = (options.services = value) != NULL && value[0] == '/';
        if (known)
            i++;
        else
            refuse(argv[i]);
    }
}

u32 make_address(union address *address, const char *path, u32 cid, u32 port)
{
    *address = (union address){0};
    if (path != NULL) {
        address->local.family = AF_UNIX;
        copy_bytes(address->local.path, path, text_length(path) + 1);
        return sizeof address->local;
    }
    address->vm = (struct sockaddr_vm){AF_VSOCK, 0, port, cid, 0, {0}};
    return sizeof address->vm;
}

static int open_listener(void)
{
    union address address;
    u32 size = make_address(&address, options.local, VMADDR_CID_ANY, options.port);
    int fd = (int)sys3(socket, address.family, SOCK_STREAM | O_CLOEXEC, 0);
    if (fd < 0) {
        // An init that starts the agent again and again is to say it once.
        if (agent_starts > 1)
            exit_process(EXIT_FAILURE_STATUS);
        die("no vsock socket can be made: the kernel has no vsock" WANTED, fd);
    }
    sys1(umask, 0077);
    long error = sys3(bind, fd, &address, size);
    if (error < 0)
        die("the port is taken or cannot be used", error);
    error = sys2(listen, fd, BACKLOG);
    if (error < 0)
        die("the port cannot be listened at", error);
    // Modes of copied files are those that the host says.
    sys1(umask, 0);
    return fd;
}

int connect_to_services(void)
{
    union address address;
    u32 size = make_address(&address, options.service_local, VMADDR_CID_HOST, options.service_port);
    int fd = (int)sys3(socket, address.family, SOCK_STREAM | O_CLOEXEC, 0);
    long error = fd < 0 ? fd : sys3(connect, fd, &address, size);
    if (error == 0)
        return fd;
    close_fd(fd);
    return (int)error;
}

const char *services_folder(void)
{
    return options.services;
}

// Tells the host that the agent listens, and again when that connection has ended: the VM may have been restored from
// a snapshot, or the host's program started anew. A host that does not listen costs a call a minute.
static _Noreturn void call_host(void)
{
    union address address;
    u32 size = make_address(&address, options.ready_local, VMADDR_CID_HOST, options.ready_port);
    u32 pause = 1;
    bool told = false;
    for (;;) {
        connection = (int)sys3(socket, address.family, SOCK_STREAM | O_CLOEXEC, 0);
        long error = connection < 0 ? connection : sys3(connect, connection, &address, size);
        if (error == -ENODEV && !told) {
            say_error("there is no vsock device, or no driver for it" WANTED, "", error);
            told = true;
        }
        if (error == 0) {
            struct frame frame;
            store_u32(outgoing(), AGENT_MAGIC);
            store_u32(outgoing() + 4, AGENT_VERSION);
            // Until the host hangs up; whatever it says meanwhile is of no interest.
            if (send_outgoing(FRAME_HELLO, 8)) {
                pause = 1;
                while (read_some(connection, &frame, sizeof frame) > 0)
                    ;
            }
        }
        close_fd(connection);
        sleep_seconds(pause);
        if (pause < LONGEST_PAUSE_SECONDS)
            pause *= 2;
    }
}

static bool is_host(const union address *address)
{
    return address->family != AF_VSOCK || address->vm.cid == VMADDR_CID_HOST;
}

static _Noreturn void accept_sessions(int listener, char **environment)
{
    for (;;) {
        union address address = {0};
        u32 size = sizeof address;
        int fd = (int)sys4(accept4, listener, &address, &size, O_CLOEXEC);
        if (fd < 0) {
            // Short of descriptors or memory: that passes.
            if (fd != -EINTR && fd != -ECONNABORTED)
                sleep_seconds(1);
            continue;
        }
        if (is_host(&address) && sys0(fork) == 0) {
            close_fd(listener);
            default_signal(SIGCHLD);
            serve(fd, environment);
        }
        close_fd(fd);
    }
}

// Descriptors 0 to 2 must be there, or a socket would take their place and a program be given it. An agent that is
// started before /dev is mounted makes do with a folder, which can be neither read nor written.
static void occupy_standard_descriptors(void)
{
    int fd;
    do {
        fd = (int)sys3(open, "/dev/null", O_RDWR, 0);
        if (fd < 0)
            fd = (int)sys3(open, "/", O_RDONLY | O_DIRECTORY, 0);
    } while (fd >= 0 && fd < 3);
    close_fd(fd);
}

int agent_main(int argc, char **argv, char **environment)
{
    read_options(argc, argv);
    if (sys0(getpid) == INIT_PID) {
        options.daemon = false;
        environment = become_init(environment);
    } else if (options.init)
        refuse("--init: it is not process 1");
    // Whatever starts the agent may have left descriptors open, which no program of the host's is to have.
    sys3(close_range, 3, ~0U, 0);
    occupy_standard_descriptors();
    ignore_signal(SIGPIPE);
    // Sessions are not waited for.
    ignore_signal(SIGCHLD);
    int listener = open_listener();
    if (options.daemon) {
        long child = sys0(fork);
        if (child != 0)
            return child < 0 ? EXIT_FAILURE_STATUS : 0;
        sys0(setsid);
    }
    if (options.local == NULL || options.ready_local != NULL) {
        long agent = sys0(getpid);
        if (sys0(fork) == 0) {
            close_fd(listener);
            sys2(prctl, PR_SET_PDEATHSIG, SIGKILL);
            if (sys0(getppid) == agent)
                call_host();
            exit_process(0);
        }
    }
    accept_sessions(listener, environment);
}
