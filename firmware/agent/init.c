// SPDX-License-Identifier: Apache-2.0
//
// The agent as process 1, so that it runs in a guest that has nothing else: mounts what programs expect, mounts and enters
// the disk that `root=` names when it was started from an initramfs, reaps whatever loses its parent, and shuts down.
//
// The agent proper is a child, which is started again when it dies: process 1 must not end, or the kernel panics. It opens
// no connection and reads nothing but the kernel's command line and its input devices.
//
// Left out: UUID= and LABEL= of file systems (that takes a parser for each), services, logins.

#include "session.h"
#include <linux/mount.h>
#include <linux/reboot.h>

#define RAMFS_MAGIC 0x858458f6L
#define TMPFS_MAGIC 0x01021994L
#define S_IFCHR 0020000
#define MNT_DETACH 2

#define COMMAND_LINE_BYTES 8192
#define NEW_ROOT "/.tsvmm-root"
#define ROOT_WAIT_MS 10000U
#define ROOT_POLL_MS 20U
// How long programs may take to end after SIGTERM, and to be gone after SIGKILL.
#define TERMINATE_MS 5000U
#define KILL_MS 2000U
#define LONGEST_RESTART_SECONDS 64U
#define INPUT_DEVICES 16

// linux/input-event-codes.h
#define EV_KEY 1
#define KEY_POWER 116
#define KEY_POWER2 0x164

struct input_event {
    long seconds, microseconds;
    u16 type, code;
    int value;
};
_Static_assert(sizeof(struct input_event) == 24, "linux/input.h");

struct file_system_status {
    long type, rest[14];
};
_Static_assert(sizeof(struct file_system_status) == 120, "statfs(2)");

// ---- Waiting

static void sleep_milliseconds(u32 milliseconds)
{
    struct {
        long seconds, nanoseconds;
    } time = {milliseconds / 1000, (long)(milliseconds % 1000) * 1000000};
    sys2(nanosleep, &time, 0);
}

// ---- Mounting

static bool missing(const char *path)
{
    return sys2(access, path, 0) < 0;
}

// Whether another file system than that of the folder above is mounted there.
static bool is_mount_point(const char *path)
{
    char above_path[32];
    struct stat here, above;
    size_t length = text_length(path);
    if (length + 4 > sizeof above_path)
        return false;
    copy_bytes(above_path, path, length);
    copy_bytes(above_path + length, "/..", 4);
    return sys2(stat, path, &here) == 0 && sys2(stat, above_path, &above) == 0 && here.st_dev != above.st_dev;
}

// What is mounted there already is left as it is.
static long mount_at(const char *type, const char *path, u32 mode, long flags, const char *data)
{
    if (is_mount_point(path))
        return 0;
    sys2(mkdir, path, mode);
    long error = sys5(mount, type, path, type, flags, data);
    return error == -EBUSY ? 0 : error;
}

static void mount_or_say(const char *type, const char *path, u32 mode, long flags, const char *data)
{
    long error = mount_at(type, path, mode, flags, data);
    if (error < 0)
        say_error("cannot mount ", path, error);
}

struct device_node {
    const char *path;
    u32 mode;
    u32 number;
};

// A kernel without devtmpfs (CONFIG_DEVTMPFS): what every program takes for granted.
static void make_device_nodes(void)
{
    static const struct device_node nodes[] = {
        {"/dev/null", 0666, 0x103},   {"/dev/zero", 0666, 0x105},    {"/dev/full", 0666, 0x107},
        {"/dev/random", 0666, 0x108}, {"/dev/urandom", 0666, 0x109}, {"/dev/tty", 0666, 0x500},
        {"/dev/console", 0600, 0x501}, {"/dev/ptmx", 0666, 0x502},
    };
    for (size_t i = 0; i < sizeof nodes / sizeof nodes[0]; i++)
        sys3(mknod, nodes[i].path, S_IFCHR | nodes[i].mode, nodes[i].number);
}

static void mount_devices(void)
{
    long error = mount_at("devtmpfs", "/dev", 0755, MS_NOSUID, "mode=0755");
    if (error < 0) {
        say_error("the kernel has no devtmpfs; making a few devices in ", "/dev", error);
        make_device_nodes();
    }
}

// False when there is none yet: its driver may be a module.
static bool open_console(void)
{
    int fd = (int)sys3(open, "/dev/console", O_RDWR | O_NOCTTY, 0);
    bool found = fd >= 0;
    if (!found)
        fd = (int)sys3(open, "/dev/null", O_RDWR, 0);
    if (fd < 0)
        return false;
    for (int standard = 0; standard < 3; standard++)
        sys2(dup2, fd, standard);
    if (fd > 2)
        close_fd(fd);
    return found;
}

static void mount_all(void)
{
    mount_or_say("proc", "/proc", 0555, MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
    mount_or_say("sysfs", "/sys", 0555, MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
    mount_devices();
    mount_or_say("devpts", "/dev/pts", 0755, MS_NOSUID | MS_NOEXEC, "mode=0620,ptmxmode=0666");
    mount_or_say("tmpfs", "/dev/shm", 01777, MS_NOSUID | MS_NODEV, "mode=1777");
    mount_or_say("tmpfs", "/run", 0755, MS_NOSUID | MS_NODEV, "mode=0755");
    sys2(mkdir, "/tmp", 01777);
    // A root that cannot be written to.
    if (sys2(access, "/tmp", 2) == -EROFS)
        mount_or_say("tmpfs", "/tmp", 01777, MS_NOSUID | MS_NODEV, "mode=1777");
    sys2(symlink, "/proc/self/fd", "/dev/fd");
    sys2(symlink, "/proc/self/fd/0", "/dev/stdin");
    sys2(symlink, "/proc/self/fd/1", "/dev/stdout");
    sys2(symlink, "/proc/self/fd/2", "/dev/stderr");
}

// ---- The root that the kernel's command line names

struct root {
    const char *device;
    const char *type;
    const char *flags;
    bool writable;
    bool wait;
};

static char command_line[COMMAND_LINE_BYTES];

// The value of the parameter `name` (with its "=") in the word, or NULL. Quotes around it are taken off.
static char *value_of(char *word, const char *name)
{
    size_t length = text_length(name);
    if (*word == '"')
        word++;
    if (!begins_with(word, name, length))
        return NULL;
    char *value = word + length;
    if (*value == '"')
        value++;
    size_t end = text_length(value);
    if (end > 0 && value[end - 1] == '"')
        value[end - 1] = '\0';
    return value;
}

static void take_word(char *word, struct root *root)
{
    char *value;
    if ((value = value_of(word, "root=")) != NULL)
        root->device = value;
    else if ((value = value_of(word, "rootfstype=")) != NULL)
        root->type = value;
    else if ((value = value_of(word, "rootflags=")) != NULL)
        root->flags = value;
    else if (same_text(word, "rw"))
        root->writable = true;
    else if (same_text(word, "ro"))
        root->writable = false;
    else if (same_text(word, "rootwait"))
        root->wait = true;
}

// As the kernel reads it: words by spaces outside double quotes, up to a lone "--"; of several, the last counts.
static void read_command_line(struct root *root)
{
    if (read_text("/proc/cmdline", command_line, sizeof command_line) < 0)
        return;
    for (char *at = command_line; *at != '\0';) {
        while (*at == ' ' || *at == '\n' || *at == '\t')
            at++;
        char *word = at;
        bool quoted = false;
        for (; *at != '\0' && (quoted || (*at != ' ' && *at != '\n' && *at != '\t')); at++)
            quoted ^= *at == '"';
        if (*at != '\0')
            *at++ = '\0';
        if (same_text(word, "--"))
            return;
        take_word(word, root);
    }
}

// Only an initramfs is left for another root: where the kernel has mounted one, `root=` is done already.
static bool in_initramfs(void)
{
    struct file_system_status status;
    if (sys2(statfs, "/", &status) < 0)
        return false;
    return status.type == RAMFS_MAGIC || status.type == TMPFS_MAGIC;
}

static bool wait_for_device(const struct root *root)
{
    for (u32 waited = 0;; waited += ROOT_POLL_MS) {
        long fd = sys3(open, root->device, O_RDONLY | O_CLOEXEC | O_NONBLOCK, 0);
        if (fd >= 0) {
            close_fd((int)fd);
            return true;
        }
        if (waited >= ROOT_WAIT_MS && !root->wait) {
            say_error("there is no device for root=", root->device, fd);
            return false;
        }
        sleep_milliseconds(ROOT_POLL_MS);
    }
}

static long mount_root_as(const struct root *root, const char *type)
{
    long flags = MS_SILENT | (root->writable ? 0 : MS_RDONLY);
    long error = sys5(mount, root->device, NEW_ROOT, type, flags, root->flags);
    // A device that cannot be written to.
    if ((error == -EACCES || error == -EROFS) && root->writable)
        error = sys5(mount, root->device, NEW_ROOT, type, flags | MS_RDONLY, root->flags);
    return error;
}

// Tries the file systems that the kernel has, in its order. /proc/filesystems: "nodev", a tab, a name, for each line.
static long mount_root_as_any(const struct root *root)
{
    static char names[4096];
    long length = read_text("/proc/filesystems", names, sizeof names);
    if (length < 0)
        return length;
    long result = -EINVAL;
    for (char *at = names; *at != '\0';) {
        char *line = at;
        while (*at != '\0' && *at != '\n')
            at++;
        if (*at != '\0')
            *at++ = '\0';
        if (*line != '\t')
            continue;
        long error = mount_root_as(root, line + 1);
        if (error == 0)
            return 0;
        if (error != -EINVAL)
            result = error;
    }
    return result;
}

// Makes the mounted disk the root. The initramfs stays below it, where nothing reaches it any more.
static long enter_root(void)
{
    sys2(umount2, "/proc", MNT_DETACH);
    sys2(umount2, "/dev", MNT_DETACH);
    long error = sys1(chdir, NEW_ROOT);
    if (error == 0)
        error = sys5(mount, ".", "/", 0, MS_MOVE, 0);
    if (error == 0)
        error = sys1(chroot, ".");
    return error == 0 ? sys1(chdir, "/") : error;
}

// False when there should be another root, and it cannot be had.
static bool find_root(void)
{
    struct root root = {NULL, NULL, NULL, false, false};
    if (!in_initramfs())
        return true;
    mount_or_say("proc", "/proc", 0555, MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
    read_command_line(&root);
    if (root.device == NULL || begins_with(root.device, "/dev/ram", 8))
        return true;
    if (!begins_with(root.device, "/dev/", 5)) {
        say("tsvmm-agent: root=");
        say(root.device);
        say(" is no device; name one such as /dev/vda1\n");
        return false;
    }
    if (!wait_for_device(&root))
        return false;
    sys2(mkdir, NEW_ROOT, 0755);
    long error = root.type == NULL ? mount_root_as_any(&root) : mount_root_as(&root, root.type);
    if (error < 0) {
        say_error(error == -EINVAL ? "the kernel knows no file system on root=" : "cannot mount root=", root.device, error);
        return false;
    }
    error = enter_root();
    if (error < 0)
        say_error("cannot change to root=", root.device, error);
    return error == 0;
}

// ---- Shutting down

static int signals = -1;

// Takes the signals that have come, and returns the last of them that is not about a child; 0 for none.
static int take_signals(void)
{
    static struct {
        u32 number;
        u8 rest[124];
    } info;
    int last = 0;
    while (read_some(signals, &info, sizeof info) == sizeof info) {
        if (info.number != SIGCHLD)
            last = (int)info.number;
    }
    return last;
}

// Returns when there are no children any more, or after that time.
static void wait_for_all(u32 milliseconds)
{
    struct pollfd poll = {signals, POLLIN, 0};
    for (u32 waited = 0; waited < milliseconds; waited += ROOT_POLL_MS) {
        long pid;
        while ((pid = sys4(wait4, -1, 0, WNOHANG, 0)) > 0)
            ;
        if (pid < 0)
            return;
        sys3(poll, &poll, 1, ROOT_POLL_MS);
        take_signals();
    }
}

static _Noreturn void shut_down(u32 command)
{
    sys2(kill, -1, SIGTERM);
    // What is stopped hears nothing else.
    sys2(kill, -1, SIGCONT);
    wait_for_all(TERMINATE_MS);
    sys2(kill, -1, SIGKILL);
    wait_for_all(KILL_MS);
    sys0(sync);
    // A disk is left clean, so that the next mount has no journal to replay.
    sys5(mount, 0, "/", 0, MS_REMOUNT | MS_RDONLY, 0);
    // Without ACPI the kernel cannot switch off: it would halt, and the monitor wait. A reset ends the machine, too.
    if (command == LINUX_REBOOT_CMD_POWER_OFF && missing("/sys/firmware/acpi"))
        command = LINUX_REBOOT_CMD_RESTART;
    for (;;) {
        long error = sys4(reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, command, 0);
        say_error("cannot switch off", "", error);
        sleep_seconds(LONGEST_RESTART_SECONDS);
    }
}

// ---- Supervising

static int inputs[INPUT_DEVICES];

static void open_inputs(void)
{
    char path[32] = "/dev/input/event";
    for (u32 i = 0; i < INPUT_DEVICES; i++) {
        path[16 + write_decimal(path + 16, i)] = '\0';
        inputs[i] = (int)sys3(open, path, O_RDONLY | O_CLOEXEC | O_NONBLOCK, 0);
    }
}

// Whether the power button was pressed.
static bool read_input(int *fd)
{
    static struct input_event events[16];
    bool pressed = false;
    long got;
    while ((got = read_some(*fd, events, sizeof events)) > 0) {
        for (size_t i = 0; i < (size_t)got / sizeof events[0]; i++) {
            bool power = events[i].code == KEY_POWER || events[i].code == KEY_POWER2;
            pressed |= events[i].type == EV_KEY && power && events[i].value == 1;
        }
    }
    // A device that was taken out.
    if (got == 0 || got == -ENODEV) {
        close_fd(*fd);
        *fd = -1;
    }
    return pressed;
}

static u64 bit_of(int signal)
{
    return 1ULL << (signal - 1);
}

static void watch_signals(void)
{
    u64 mask = bit_of(SIGCHLD) | bit_of(SIGTERM) | bit_of(SIGINT) | bit_of(SIGUSR1) | bit_of(SIGUSR2) | bit_of(SIGPWR);
    sys4(rt_sigprocmask, SIG_SETMASK, &mask, 0, sizeof mask);
    signals = (int)sys4(signalfd4, -1, &mask, sizeof mask, O_CLOEXEC | O_NONBLOCK);
    if (signals < 0)
        say_error("the kernel has no signalfd (CONFIG_SIGNALFD)", "", signals);
    // Ctrl-Alt-Del is a signal, not a reset at once.
    sys4(reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, LINUX_REBOOT_CMD_CAD_OFF, 0);
}

// Waits for something to happen, at most for that time; shuts down when that is asked for.
static void wait_for_event(int milliseconds)
{
    struct pollfd polls[INPUT_DEVICES + 1];
    polls[0] = (struct pollfd){signals, POLLIN, 0};
    for (u32 i = 0; i < INPUT_DEVICES; i++)
        polls[i + 1] = (struct pollfd){inputs[i], POLLIN, 0};
    // Without a signalfd there is nothing to wake this: it looks at its children twice a second.
    long ready = sys3(poll, polls, INPUT_DEVICES + 1, signals < 0 ? 500 : milliseconds);
    if (ready <= 0)
        return;
    for (u32 i = 0; i < INPUT_DEVICES; i++) {
        if (polls[i + 1].revents != 0 && read_input(&inputs[i]))
            shut_down(LINUX_REBOOT_CMD_POWER_OFF);
    }
    int signal = take_signals();
    if (signal == SIGINT)
        shut_down(LINUX_REBOOT_CMD_RESTART);
    if (signal != 0)
        shut_down(LINUX_REBOOT_CMD_POWER_OFF);
}

static long start_agent(void)
{
    long child = sys0(fork);
    if (child != 0)
        return child;
    u64 none = 0;
    for (u32 i = 0; i < INPUT_DEVICES; i++)
        close_fd(inputs[i]);
    close_fd(signals);
    sys4(rt_sigprocmask, SIG_SETMASK, &none, 0, sizeof none);
    sys0(setsid);
    return 0;
}

u32 agent_starts;

static long uptime_seconds(void)
{
    struct {
        long seconds, nanoseconds;
    } now = {0, 0};
    sys2(clock_gettime, CLOCK_MONOTONIC, &now);
    return now.seconds;
}

// Returns in the agent, a child; the parent stays here. An agent that dies at once is started ever more rarely.
static void supervise_agent(void)
{
    u32 pause = 1;
    for (;;) {
        long start = uptime_seconds();
        agent_starts++;
        long agent = start_agent();
        if (agent == 0)
            return;
        if (agent < 0)
            say_error("no process can be made for the agent", "", agent);
        while (agent > 0) {
            long pid;
            while ((pid = sys4(wait4, -1, 0, WNOHANG, 0)) > 0) {
                if (pid == agent)
                    agent = 0;
            }
            if (agent > 0)
                wait_for_event(-1);
        }
        if (uptime_seconds() - start > LONGEST_RESTART_SECONDS)
            pause = 1;
        for (u32 waited = 0; waited < pause * 1000; waited += 500)
            wait_for_event(500);
        if (pause < LONGEST_RESTART_SECONDS)
            pause *= 2;
    }
}

// The kernel gives HOME=/ and what it did not understand of its command line.
static char **init_environment(char **environment)
{
    static char *variables[64];
    size_t count = 0;
    for (; *environment != NULL && count < 61; environment++) {
        if (!same_text(*environment, "HOME=/") && !begins_with(*environment, "TERM=", 5))
            variables[count++] = *environment;
    }
    bool has_home = false;
    for (size_t i = 0; i < count; i++)
        has_home |= begins_with(variables[i], "HOME=", 5);
    if (!has_home)
        variables[count++] = missing("/root") ? "HOME=/" : "HOME=/root";
    return variables;
}

char **become_init(char **environment)
{
    sys1(umask, 0);
    mount_devices();
    bool has_console = open_console();
    watch_signals();
    load_modules();
    if (!has_console)
        open_console();
    if (!find_root()) {
        say("tsvmm-agent: without its root the machine is switched off\n");
        // For /sys/firmware/acpi.
        mount_at("sysfs", "/sys", 0555, 0, NULL);
        shut_down(LINUX_REBOOT_CMD_POWER_OFF);
    }
    mount_all();
    long error = raise_loopback();
    if (error < 0)
        say_error("cannot bring up ", "lo", error);
    open_inputs();
    supervise_agent();
    return init_environment(environment);
}
