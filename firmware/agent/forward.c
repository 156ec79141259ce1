// SPDX-License-Identifier: Apache-2.0
//
// TCP of the guest's own machine: a connection to 127.0.0.1 for a port of the host, and what listens there for a service
// of the host.

#include "session.h"
#include <linux/sockios.h>

#define CONNECT_SECONDS 10
#define IFF_UP 1

struct sockaddr_inet {
    u16 family;
    u8 port[2];
    u8 address[4];
    u8 zero[8];
};
_Static_assert(sizeof(struct sockaddr_inet) == 16, "ip(7)");

// netdevice(7). Its own header wants a C library.
struct interface_request {
    char name[16];
    short flags;
    u8 rest[22];
};
_Static_assert(sizeof(struct interface_request) == 40, "linux/if.h");

static struct sockaddr_inet loopback_address(u32 port)
{
    return (struct sockaddr_inet){AF_INET, {(u8)(port >> 8), (u8)port}, {127, 0, 0, 1}, {0}};
}

static int open_tcp(int flags)
{
    int fd = (int)sys3(socket, AF_INET, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);
    if (fd < 0)
        fail(ERROR_IO, fd, "no TCP socket can be made");
    return fd;
}

long raise_loopback(void)
{
    struct interface_request request = {"lo", IFF_UP, {0}};
    int fd = (int)sys3(socket, AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    // A kernel without networks has none to bring up.
    if (fd < 0)
        return 0;
    long error = sys3(ioctl, fd, SIOCSIFFLAGS, &request);
    close_fd(fd);
    return error;
}

static int connect_to(u32 port)
{
    struct sockaddr_inet address = loopback_address(port);
    struct {
        long seconds, microseconds;
    } limit = {CONNECT_SECONDS, 0};
    int fd = open_tcp(0);
    sys5(setsockopt, fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    long error = sys3(connect, fd, &address, sizeof address);
    if (error == -ENETUNREACH || error == -EADDRNOTAVAIL) {
        raise_loopback();
        error = sys3(connect, fd, &address, sizeof address);
    }
    if (error < 0)
        fail(ERROR_REFUSED, error, "nobody answers at that port of the guest");
    return fd;
}

void forward(struct frame *request)
{
    if (request->length != 4 || load_u32(request->payload) - 1 >= 65535)
        fail_protocol("FORWARD names no port");
    int tcp = connect_to(load_u32(request->payload));
    reset_on_close(tcp, true);
    if (send_outgoing(FRAME_CONNECTED, 0))
        relay(tcp, true);
}

long listen_at_loopback(u32 port, int backlog)
{
    struct sockaddr_inet address = loopback_address(port);
    int fd = open_tcp(SOCK_NONBLOCK);
    int on = 1;
    // Connections that are long over must not keep the port.
    sys5(setsockopt, fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    long error = sys3(bind, fd, &address, sizeof address);
    if (error == -EADDRNOTAVAIL) {
        raise_loopback();
        error = sys3(bind, fd, &address, sizeof address);
    }
    if (error == 0)
        error = sys2(listen, fd, backlog);
    if (error == 0)
        return fd;
    close_fd(fd);
    return error;
}
