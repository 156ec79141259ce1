// SPDX-License-Identifier: Apache-2.0
// The test guest's /init: prepares the machine, then becomes a shell that obeys the serial line.
//
// Process 1 is busybox sh, reading its commands from a FIFO. A second process, the feeder, reads
// lines from the console and writes them into the FIFO, wrapped so that each runs in the shell
// itself and is followed by its exit status. The protocol is described in README.md.
//
// Why C and not a shell script: each exec of an applet costs half a second on the test machines
// (kernel mode is emulated there), and the mounts and the terminal settings need four of them.
// Why a feeder: the shell's own `read` takes a line one byte per system call, which costs
// milliseconds per byte there; the feeder takes a line in one. It also keeps the
// commands from eating the console's input: their standard input is /dev/null.
#include "mini.h"

#include <asm/termbits.h>
#include <linux/fcntl.h>
#include <linux/if.h>
#include <linux/mount.h>
#include <linux/reboot.h>
#include <asm/ioctls.h>
#include <linux/sockios.h>

#define COMMANDS "/dev/tsvmm-commands"

// N_TTY gives a canonical line of at most 4095 bytes; every byte of it may be a quote, which
// becomes four, and the wrapping is added.
#define LINE_MAX 4096
static char line[LINE_MAX];
static char wrapped[4 * LINE_MAX + 256];

static void say(const char *text)
{
	write_all(2, text, length(text));
}

static void mount_at(const char *type, const char *where)
{
	// MS_RELATIME is what mount(8) would give; without it every read updates a timestamp.
	long error = sys5(__NR_mount, type, where, type, MS_RELATIME, 0);

	// The kernel has put devtmpfs there already when the root is a disk.
	if (error < 0 && error != -16 /* EBUSY */) {
		say("tsvmm-guest: cannot mount ");
		say(where);
		say("\n");
	}
}

// Canonical mode, because the driver then wakes the feeder once per line. No echo: an echoed
// byte costs as much as a printed one, and would have to be told apart from output. No
// special characters, no output processing: text passes as it is, but for CR, read as newline.
static void set_up_terminal(void)
{
	struct termios tio;

	if (sys3(__NR_ioctl, 0, TCGETS, &tio) < 0)
		return;
	tio.c_iflag = ICRNL;
	tio.c_oflag = 0;
	tio.c_lflag = ICANON;
	for (unsigned i = 0; i < NCCS; i++)
		tio.c_cc[i] = 0; // _POSIX_VDISABLE
	sys3(__NR_ioctl, 0, TCSETS, &tio);
}

static void bring_up_loopback(void)
{
	struct ifreq request;
	long fd = sys3(__NR_socket, 2 /* AF_INET */, 2 /* SOCK_DGRAM */, 0);

	if (fd < 0)
		return;
	memset(&request, 0, sizeof(request));
	memcpy(request.ifr_name, "lo", 3);
	request.ifr_flags = IFF_UP | IFF_RUNNING;
	sys3(__NR_ioctl, fd, SIOCSIFFLAGS, &request);
	sys1(__NR_close, fd);
}

static char *append(char *to, const char *text)
{
	size_t n = length(text);

	memcpy(to, text, n);
	return to + n;
}

// `command eval` keeps the shell alive when the line has a syntax error; plain eval, a special
// builtin, would end it. The newline before the marker puts it on a line of its own
// even when the output does not end with one, and is never part of the output.
static size_t wrap(const char *text, size_t n)
{
	char *to = append(wrapped, "command eval '");

	for (size_t i = 0; i < n; i++) {
		if (text[i] == '\'')
			to = append(to, "'\\''");
		else
			*to++ = text[i];
	}
	to = append(to, "'\necho \"\ntsvmm-guest: exit $?\"\n");
	return (size_t)(to - wrapped);
}

static void feed(void)
{
	static const char poweroff[] = "exec /init poweroff\n";
	long commands;

	sys0(__NR_setsid); // a process group of its own: `kill 0` in the shell spares it
	commands = sys2(__NR_open, COMMANDS, O_WRONLY); // waits for the shell to open its end
	if (commands < 0)
		exit_program(1);
	sys1(__NR_unlink, COMMANDS);
	// The shell says it, so that it also means that the shell works.
	write_all((int)commands, "echo tsvmm-guest: ready\n", 24);

	for (;;) {
		long n = sys3(__NR_read, 0, line, sizeof(line) - 1);

		if (n == -4 /* EINTR */)
			continue;
		if (n <= 0)
			exit_program(1);
		while (n > 0 && (line[n - 1] == '\n' || line[n - 1] == ' '))
			n--;
		line[n] = '\0';
		if (n == 0)
			continue; // also the empty line that CR LF leaves behind
		if (same(line, "poweroff"))
			write_all((int)commands, poweroff, sizeof(poweroff) - 1);
		else
			write_all((int)commands, wrapped, wrap(line, (size_t)n));
	}
}

// There is no ACPI to switch the power off with. With reboot=k on the kernel's command line this ends in
// the keyboard controller's reset, at which the monitor exits.
static int power_off(void)
{
	sys0(__NR_sync);
	// A root on a disk is left clean, so that the next mount has no journal to replay. The initramfs does not mind.
	sys5(__NR_mount, 0, "/", 0, MS_REMOUNT | MS_RDONLY, 0);
	sys4(__NR_reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, LINUX_REBOOT_CMD_RESTART, 0);
	return 1;
}

int program(int argc, char **argv, char **envp)
{
	static char *const sh_argv[] = {"sh", COMMANDS, 0};
	static char *const sh_envp[] = {
		"PATH=/bin",
		"HOME=/",
		"TERM=dumb",
		// With noxsave the kernel does not keep the wide registers across a context switch.
		"GLIBC_TUNABLES=glibc.cpu.hwcaps=-AVX,-AVX2,-AVX512F,-AVX512VL,-AVX512BW",
		0,
	};
	long fd;

	(void)envp;
	if (argc == 2 && same(argv[1], "poweroff"))
		return power_off();

	set_up_terminal();
	mount_at("devtmpfs", "/dev");
	mount_at("proc", "/proc");
	mount_at("sysfs", "/sys");
	bring_up_loopback();

	if (sys3(__NR_mknod, COMMANDS, 0010600 /* S_IFIFO */, 0) < 0)
		say("tsvmm-guest: cannot make " COMMANDS "\n");
	if (sys0(__NR_fork) == 0)
		feed();

	fd = sys2(__NR_open, "/dev/null", O_RDWR);
	if (fd >= 0) {
		sys2(__NR_dup2, fd, 0);
		sys1(__NR_close, fd);
	}
	sys3(__NR_execve, "/bin/sh", sh_argv, sh_envp);
	say("tsvmm-guest: cannot start /bin/sh\n");
	return 1; // the kernel panics, and panic=-1 makes that a reset
}
