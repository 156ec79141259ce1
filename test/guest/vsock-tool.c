// SPDX-License-Identifier: Apache-2.0
// One end of a vsock (or TCP) connection, for tests in the guest: small enough that starting it is cheap.
//
//   vsock-tool cid
//   vsock-tool listen PORT ACTION [OPTION...]
//   vsock-tool connect CID PORT ACTION [OPTION...]
//   vsock-tool connect ADDRESS PORT ACTION tcp [OPTION...]
//
// Actions, what is done with a connection:
//   sink        receive until the peer ends
//   source N    send N bytes and end the sending side, while receiving until the peer ends
//   echo        send back what arrives; end the sending side when the peer has ended
//   stdio       copy standard input to the peer and the peer to standard output
//
// Options:
//   seqpacket   SOCK_SEQPACKET in place of SOCK_STREAM
//   tcp         TCP over IPv4 in place of vsock
//   b=N         bytes per send, so the length of a SEQPACKET message (65536)
//   seed=N      of the bytes that source sends (1); connection i of n uses N+i
//   n=N         serve, or make, N connections at once, a process for each (1)
//   timeout=N   seconds after which SIGALRM ends the program, status 142 (0: never)
//   buffer=N    SO_VM_SOCKETS_BUFFER_SIZE, the receive window told to the peer
//   wait=N      milliseconds to wait before the first receive or send
//   shut        end the sending side at once (sink)
//   noshut      do not end the sending side: only the close does (source, echo)
//   max=N       receive N bytes at most, then close: with more on its way that is a reset
//
// What it prints. `vsock-tool: listening PORT` when a connect would succeed; per connection
//   vsock-tool: peer=CID-OR-ADDRESS:PORT tx=BYTES txmsgs=N txsha=SHA256 rx=BYTES rxmsgs=N rxsha=SHA256 ms=N end=HOW
// where txsha and rxsha are left out when nothing went that way, txmsgs and rxmsgs count
// completed sends and receives (messages, for SEQPACKET), and HOW is eof, max or errno-N. With
// stdio the line goes to standard error. Status: 0 for eof and max, 1 usage or set-up, 2 any other end.
//
// The bytes of source: words of xorshift32 (x ^= x << 13; x ^= x >> 17; x ^= x << 5, starting
// from the seed, the first word being the first result), little-endian.
#include "mini.h"

// Of the C library the declarations only.
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <linux/in.h>
#include <linux/vm_sockets.h>

#define CHUNK_MAX (1024 * 1024)

// ---- SHA-256 (FIPS 180-4) ----

struct sha256 {
	u32 state[8];
	u64 bytes;
	u8 block[64];
};

static const u32 K[64] = {
	0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
	0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
	0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
	0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
	0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
	0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
	0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
	0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static void sha256_init(struct sha256 *s)
{
	static const u32 first[8] = {
		0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
	};

	memcpy(s->state, first, sizeof(first));
	s->bytes = 0;
}

static u32 ror(u32 x, unsigned n)
{
	return x >> n | x << (32 - n);
}

static void sha256_block(u32 *state, const u8 *p)
{
	u32 w[64];
	u32 a = state[0], b = state[1], c = state[2], d = state[3];
	u32 e = state[4], f = state[5], g = state[6], h = state[7];

	for (unsigned i = 0; i < 16; i++)
		w[i] = (u32)p[4 * i] << 24 | (u32)p[4 * i + 1] << 16 | (u32)p[4 * i + 2] << 8 | p[4 * i + 3];
	for (unsigned i = 16; i < 64; i++) {
		u32 s0 = ror(w[i - 15], 7) ^ ror(w[i - 15], 18) ^ w[i - 15] >> 3;
		u32 s1 = ror(w[i - 2], 17) ^ ror(w[i - 2], 19) ^ w[i - 2] >> 10;

		w[i] = w[i - 16] + s0 + w[i - 7] + s1;
	}
	for (unsigned i = 0; i < 64; i++) {
		u32 t1 = h + (ror(e, 6) ^ ror(e, 11) ^ ror(e, 25)) + ((e & f) ^ (~e & g)) + K[i] + w[i];
		u32 t2 = (ror(a, 2) ^ ror(a, 13) ^ ror(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));

		h = g;
		g = f;
		f = e;
		e = d + t1;
		d = c;
		c = b;
		b = a;
		a = t1 + t2;
	}
	state[0] += a;
	state[1] += b;
	state[2] += c;
	state[3] += d;
	state[4] += e;
	state[5] += f;
	state[6] += g;
	state[7] += h;
}

static void sha256_add(struct sha256 *s, const u8 *p, size_t n)
{
	size_t used = s->bytes % 64;

	s->bytes += n;
	if (used + n < 64) {
		memcpy(s->block + used, p, n);
		return;
	}
	if (used > 0) {
		memcpy(s->block + used, p, 64 - used);
		sha256_block(s->state, s->block);
		p += 64 - used;
		n -= 64 - used;
	}
	for (; n >= 64; p += 64, n -= 64)
		sha256_block(s->state, p);
	memcpy(s->block, p, n);
}

static char *sha256_hex(struct sha256 *s, char *to)
{
	static const u8 padding[64] = {0x80};
	u64 bits = s->bytes * 8;
	u8 length_be[8];

	for (unsigned i = 0; i < 8; i++)
		length_be[i] = (u8)(bits >> (56 - 8 * i));
	sha256_add(s, padding, 1 + (119 - s->bytes % 64) % 64);
	sha256_add(s, length_be, 8);
	for (unsigned i = 0; i < 64; i++)
		*to++ = "0123456789abcdef"[s->state[i / 8] >> (28 - 4 * (i % 8)) & 15];
	return to;
}

// ---- small helpers ----

static u16 swap16(u64 value)
{
	return (u16)(value << 8 | (value >> 8 & 0xff));
}

// The four bytes of a dotted address, in network order.
static u32 ipv4(const char *text, int *bad)
{
	u32 address = 0;

	for (unsigned i = 0; i < 4; i++) {
		u32 byte = 0, digits = 0;

		for (; *text >= '0' && *text <= '9'; text++, digits++)
			byte = byte * 10 + (u32)(*text - '0');
		*bad |= digits == 0 || digits > 3 || byte > 255 || *text != (i < 3 ? '.' : '\0');
		if (*bad)
			return 0;
		text++;
		address |= byte << (8 * i);
	}
	return address;
}

static void fail(const char *what, long error)
{
	char text[128];
	char *to = put(put(text, "vsock-tool: "), what);

	if (error < 0)
		to = put_number(put(to, ": errno-"), (u64)-error);
	*to++ = '\n';
	write_all(2, text, (size_t)(to - text));
	exit_program(1);
}

static u64 now_ms(void)
{
	struct timespec now;

	sys2(__NR_clock_gettime, CLOCK_MONOTONIC, &now);
	return (u64)now.tv_sec * 1000 + (u64)now.tv_nsec / 1000000;
}

static void sleep_ms(u64 ms)
{
	sys3(__NR_poll, 0, 0, ms);
}

// ---- one connection ----

enum action { SINK, SOURCE, ECHO, STDIO };

static struct options {
	enum action action;
	int type;
	u64 source_bytes;
	u64 chunk;
	u64 seed;
	u64 count;
	u64 timeout_s;
	u64 buffer;
	u64 wait_ms;
	u64 max;
	int shut;
	int noshut;
	int tcp;
} opt = {.type = SOCK_STREAM, .chunk = 65536, .seed = 1, .count = 1, .max = ~0ull};

static u8 tx_buffer[CHUNK_MAX];
static u8 rx_buffer[CHUNK_MAX];

struct direction {
	u64 bytes;
	u64 messages;
	struct sha256 sha;
};

static void count(struct direction *d, const u8 *data, size_t n)
{
	d->bytes += n;
	d->messages++;
	sha256_add(&d->sha, data, n);
}

static u32 word;
static unsigned word_left; // bytes of word not given out yet

static void generate(u8 *to, size_t n)
{
	for (; n > 0; n--) {
		if (word_left == 0) {
			word ^= word << 13;
			word ^= word >> 17;
			word ^= word << 5;
			word_left = 4;
		}
		*to++ = (u8)(word >> (8 * (4 - word_left)));
		word_left--;
	}
}

static char *put_direction(char *to, const char *name, struct direction *d)
{
	to = put_number(put(put(put(to, " "), name), "="), d->bytes);
	to = put_number(put(put(put(to, " "), name), "msgs="), d->messages);
	if (d->bytes > 0)
		to = sha256_hex(&d->sha, put(put(put(to, " "), name), "sha="));
	return to;
}

// Where a peer is, in either family.
union address {
	struct sockaddr_vm vm;
	struct sockaddr_in in;
};

static u32 address_length(void)
{
	return opt.tcp ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_vm);
}

static char *put_address(char *to, const union address *address)
{
	if (!opt.tcp) {
		to = put_number(to, address->vm.svm_cid);
		return put_number(put(to, ":"), address->vm.svm_port);
	}
	for (unsigned i = 0; i < 4; i++) {
		to = put_number(to, address->in.sin_addr.s_addr >> (8 * i) & 0xff);
		*to++ = i < 3 ? '.' : ':';
	}
	return put_number(to, swap16(address->in.sin_port));
}

// Returns the program's status. Reads and writes without waiting, and polls only when neither is
// possible: on the test machines a system call costs a millisecond.
static int serve(int fd, u64 index, const union address *peer)
{
	struct direction tx = {0}, rx = {0};
	u64 started = now_ms();
	u64 unsent = opt.action == SOURCE ? opt.source_bytes : 0; // not generated yet
	size_t tx_length = 0, tx_done = 0;			  // what tx_buffer holds
	int sends = opt.action != SINK;
	int tx_open = sends, rx_open = 1;
	int tx_ready = 1, rx_ready = 1;
	int input_open = opt.action == STDIO, input_ready = 1;
	long error = 0;
	const char *how = "eof";
	char text[512];
	char *to = text;

	word = (u32)(opt.seed + index);
	word_left = 0;
	sha256_init(&tx.sha);
	sha256_init(&rx.sha);
	if (opt.wait_ms > 0)
		sleep_ms(opt.wait_ms);
	if (opt.shut)
		sys2(__NR_shutdown, fd, SHUT_WR);

	while (error == 0 && (rx_open || tx_open)) {
		int progress = 0;
		int echo_full = opt.action == ECHO && tx_done < tx_length;

		if (tx_open && tx_done == tx_length) {
			tx_done = tx_length = 0;
			if (unsent > 0) {
				tx_length = unsent < opt.chunk ? unsent : opt.chunk;
				generate(tx_buffer, tx_length);
				unsent -= tx_length;
			} else if (input_open && input_ready) {
				long n = sys3(__NR_read, 0, tx_buffer, opt.chunk);

				input_ready = 0;
				if (n > 0)
					tx_length = (size_t)n;
				else
					input_open = 0;
				progress = 1;
			}
		}
		if (tx_open && tx_done < tx_length && tx_ready) {
			long n = sys6(__NR_sendto, fd, tx_buffer + tx_done, tx_length - tx_done,
				      MSG_DONTWAIT | MSG_NOSIGNAL, 0, 0);

			if (n == -EAGAIN) {
				tx_ready = 0;
			} else if (n < 0) {
				error = n;
				break;
			} else {
				count(&tx, tx_buffer + tx_done, (size_t)n);
				tx_done += (size_t)n;
				progress = 1;
			}
			echo_full = opt.action == ECHO && tx_done < tx_length;
		}
		if (tx_open && tx_done == tx_length &&
		    (opt.action == SOURCE ? unsent == 0 : opt.action == ECHO ? !rx_open : !input_open)) {
			tx_open = 0;
			if (!opt.noshut)
				sys2(__NR_shutdown, fd, SHUT_WR);
			progress = 1;
		}
		// While there is something to send, sending goes first, until it would wait.
		if (rx_open && rx_ready && !echo_full && !(opt.action == SOURCE && tx_open && tx_ready)) {
			u64 room = opt.action == ECHO ? opt.chunk : sizeof(rx_buffer);
			u8 *into = opt.action == ECHO ? tx_buffer : rx_buffer;
			long n;

			if (room > opt.max - rx.bytes)
				room = opt.max - rx.bytes;
			n = sys6(__NR_recvfrom, fd, into, room, MSG_DONTWAIT, 0, 0);
			if (n == -EAGAIN) {
				rx_ready = 0;
			} else if (n < 0) {
				error = n;
				break;
			} else if (n == 0) {
				rx_open = 0;
				progress = 1;
			} else {
				count(&rx, into, (size_t)n);
				if (opt.action == ECHO)
					tx_length = (size_t)n, tx_done = 0;
				else if (opt.action == STDIO)
					write_all(1, (char *)into, (size_t)n);
				progress = 1;
				if (rx.bytes >= opt.max) {
					how = "max";
					break;
				}
			}
		}
		if (!progress) {
			struct pollfd fds[2] = {
				{.fd = fd},
				{.fd = input_open && tx_done == tx_length ? 0 : -1, .events = POLLIN},
			};

			if (rx_open && !echo_full)
				fds[0].events |= POLLIN;
			if (tx_open && tx_done < tx_length)
				fds[0].events |= POLLOUT;
			sys3(__NR_poll, fds, 2, -1);
			// An error or hang-up is found by the call that it concerns.
			rx_ready |= (fds[0].revents & (POLLIN | POLLERR | POLLHUP)) != 0;
			tx_ready |= (fds[0].revents & (POLLOUT | POLLERR | POLLHUP)) != 0;
			input_ready |= fds[1].revents != 0;
		}
	}
	sys1(__NR_close, fd);

	to = put_address(put(to, "vsock-tool: peer="), peer);
	to = put_direction(to, "tx", &tx);
	to = put_direction(to, "rx", &rx);
	to = put_number(put(to, " ms="), now_ms() - started);
	if (error < 0)
		to = put_number(put(to, " end=errno-"), (u64)-error);
	else
		to = put(put(to, " end="), how);
	*to++ = '\n';
	write_all(opt.action == STDIO ? 2 : 1, text, (size_t)(to - text));
	return error < 0 ? 2 : 0;
}

// ---- set-up ----

static int own_cid(void)
{
	u32 cid = 0;
	char text[32];
	char *to = text;
	long fd = sys2(__NR_open, "/dev/vsock", O_RDONLY);
	long error = fd < 0 ? fd : sys3(__NR_ioctl, fd, IOCTL_VM_SOCKETS_GET_LOCAL_CID, &cid);

	if (error < 0)
		fail("cid", error);
	to = put_number(to, cid);
	*to++ = '\n';
	write_all(1, text, (size_t)(to - text));
	return 0;
}

static long new_socket(void)
{
	long fd = sys3(__NR_socket, opt.tcp ? AF_INET : AF_VSOCK, opt.type, 0);

	if (fd < 0)
		fail("socket", fd);
	if (opt.buffer > 0) {
		long error = sys5(__NR_setsockopt, fd, AF_VSOCK, SO_VM_SOCKETS_BUFFER_MAX_SIZE,
				  &opt.buffer, sizeof(opt.buffer));

		if (error == 0)
			error = sys5(__NR_setsockopt, fd, AF_VSOCK, SO_VM_SOCKETS_BUFFER_SIZE,
				     &opt.buffer, sizeof(opt.buffer));
		if (error < 0)
			fail("buffer", error);
	}
	return fd;
}

static char *option_value(char *arg, const char *name)
{
	while (*name != '\0' && *arg == *name) {
		arg++;
		name++;
	}
	return *name == '\0' ? arg : 0;
}

static int parse(int argc, char **argv, int i)
{
	int bad = 0, has_action = 0;

	for (; i < argc; i++) {
		char *arg = argv[i];
		char *value;

		if (same(arg, "sink"))
			opt.action = SINK, has_action = 1;
		else if (same(arg, "echo"))
			opt.action = ECHO, has_action = 1;
		else if (same(arg, "stdio"))
			opt.action = STDIO, has_action = 1;
		else if (same(arg, "source") && i + 1 < argc)
			opt.action = SOURCE, has_action = 1, opt.source_bytes = number(argv[++i], &bad);
		else if (same(arg, "seqpacket"))
			opt.type = SOCK_SEQPACKET;
		else if (same(arg, "tcp"))
			opt.tcp = 1;
		else if (same(arg, "shut"))
			opt.shut = 1;
		else if (same(arg, "noshut"))
			opt.noshut = 1;
		else if ((value = option_value(arg, "b=")))
			opt.chunk = number(value, &bad);
		else if ((value = option_value(arg, "seed=")))
			opt.seed = number(value, &bad);
		else if ((value = option_value(arg, "n=")))
			opt.count = number(value, &bad);
		else if ((value = option_value(arg, "timeout=")))
			opt.timeout_s = number(value, &bad);
		else if ((value = option_value(arg, "buffer=")))
			opt.buffer = number(value, &bad);
		else if ((value = option_value(arg, "wait=")))
			opt.wait_ms = number(value, &bad);
		else if ((value = option_value(arg, "max=")))
			opt.max = number(value, &bad);
		else
			bad = 1;
	}
	return !bad && has_action && opt.chunk > 0 && opt.chunk <= CHUNK_MAX && opt.seed > 0 && opt.count > 0 &&
	       opt.max > 0;
}

int program(int argc, char **argv, char **envp)
{
	int listens = argc > 1 && same(argv[1], "listen");
	int connects = argc > 1 && same(argv[1], "connect");
	int first = listens ? 3 : 4;
	int bad = 0, worst = 0;
	union address address = {.vm = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY}};
	u64 forked = 0, port;
	long listener = -1, error;

	(void)envp;
	if (argc == 2 && same(argv[1], "cid"))
		return own_cid();
	if ((!listens && !connects) || argc <= first || !parse(argc, argv, first))
		fail("usage: cid | listen PORT ACTION [OPTION...] | connect CID PORT ACTION [OPTION...]", 0);
	port = number(argv[first - 1], &bad);
	if (opt.tcp) {
		address.in = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = swap16(port)};
		if (connects)
			address.in.sin_addr.s_addr = ipv4(argv[2], &bad);
	} else {
		address.vm.svm_port = (u32)port;
		if (connects)
			address.vm.svm_cid = (u32)number(argv[2], &bad);
	}
	if (bad)
		fail("not a number, or not an address", 0);

	// The signal's default action ends the program; the shell reports status 142.
	if (opt.timeout_s > 0)
		sys1(__NR_alarm, opt.timeout_s);

	if (listens) {
		char text[64];
		char *to = put(text, "vsock-tool: listening ");

		listener = new_socket();
		error = sys3(__NR_bind, listener, &address, address_length());
		if (error == 0)
			error = sys2(__NR_listen, listener, opt.count);
		if (error < 0)
			fail("listen", error);
		to = put_number(to, port);
		*to++ = '\n';
		write_all(opt.action == STDIO ? 2 : 1, text, (size_t)(to - text));
	}
	for (u64 i = 0; i < opt.count; i++) {
		union address peer = address;
		u32 peer_length = address_length();
		long fd = listens ? sys3(__NR_accept, listener, &peer, &peer_length) : new_socket();

		if (fd < 0)
			fail("accept", fd);
		if (connects) {
			error = sys3(__NR_connect, fd, &peer, address_length());
			if (error < 0)
				fail("connect", error);
		}
		if (opt.count == 1)
			return serve((int)fd, i, &peer);
		if (sys0(__NR_fork) == 0) {
			// A child does not inherit the alarm.
			if (opt.timeout_s > 0)
				sys1(__NR_alarm, opt.timeout_s);
			exit_program(serve((int)fd, i, &peer));
		}
		sys1(__NR_close, fd);
		forked++;
	}
	while (forked-- > 0) {
		int status = 0;

		sys4(__NR_wait4, -1, &status, 0, 0);
		if (status != 0 && worst < 2)
			worst = 2;
	}
	return worst;
}
