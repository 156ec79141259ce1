// SPDX-License-Identifier: Apache-2.0
//
// What the guest's kernel says about its load: lines of a name and a number, from sysinfo(2), and from /proc where it
// is mounted. A name that the kernel has nothing to say about is left out.

#include "session.h"
#include <linux/sysinfo.h>

// struct linux_dirent64: u64 ino, s64 offset, u16 record length, u8 type, name.
#define DIRENT_LENGTH 16
#define DIRENT_NAME 19

static u32 line(u8 *to, const char *name, u64 value)
{
    size_t length = text_length(name);
    copy_bytes(to, name, length);
    to[length++] = ' ';
    length += write_decimal((char *)to + length, value);
    to[length++] = '\n';
    return (u32)length;
}

// The number behind `name` in a file of lines "Name:   number kB", such as /proc/meminfo.
static bool meminfo(const char *name, u64 *kibibytes)
{
    static char text[8192];
    if (read_text("/proc/meminfo", text, sizeof text) < 0)
        return false;
    size_t name_length = text_length(name);
    for (char *at = text; *at != '\0';) {
        if (begins_with(at, name, name_length)) {
            u64 value = 0;
            for (at += name_length; *at == ' '; at++)
                ;
            for (; *at >= '0' && *at <= '9'; at++)
                value = value * 10 + (u64)(*at - '0');
            *kibibytes = value;
            return true;
        }
        while (*at != '\0' && *at++ != '\n')
            ;
    }
    return false;
}

static bool count_processes(u64 *count)
{
    static u8 entries[32768];
    int fd = (int)sys3(open, "/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    if (fd < 0)
        return false;
    long got;
    *count = 0;
    while ((got = sys3(getdents64, fd, entries, sizeof entries)) > 0) {
        for (long at = 0; at < got; at += *(u16 *)(entries + at + DIRENT_LENGTH)) {
            u8 first = entries[at + DIRENT_NAME];
            *count += first >= '1' && first <= '9';
        }
    }
    close_fd(fd);
    return *count > 0;
}

static u64 online_cpus(void)
{
    u64 mask[128];
    u64 count = 0;
    long bytes = sys3(sched_getaffinity, 0, sizeof mask, mask);
    for (long i = 0; i < bytes / 8; i++) {
        for (u64 word = mask[i]; word != 0; word &= word - 1)
            count++;
    }
    return count;
}

void send_metrics(void)
{
    struct sysinfo info;
    u8 *to = outgoing();
    u32 length = 0;
    u64 value;
    if (sys1(sysinfo, &info) == 0) {
        u64 unit = info.mem_unit == 0 ? 1 : info.mem_unit;
        length += line(to + length, "uptime_seconds", (u64)info.uptime);
        // Fixed point with 16 bits behind the point; told in thousandths.
        length += line(to + length, "load1_thousandths", (u64)info.loads[0] * 1000 >> 16);
        length += line(to + length, "load5_thousandths", (u64)info.loads[1] * 1000 >> 16);
        length += line(to + length, "load15_thousandths", (u64)info.loads[2] * 1000 >> 16);
        length += line(to + length, "memory_total", (u64)info.totalram * unit);
        length += line(to + length, "memory_free", (u64)info.freeram * unit);
        length += line(to + length, "swap_total", (u64)info.totalswap * unit);
        length += line(to + length, "swap_free", (u64)info.freeswap * unit);
    }
    if (meminfo("MemAvailable:", &value))
        length += line(to + length, "memory_available", value * 1024);
    if (count_processes(&value))
        length += line(to + length, "processes", value);
    length += line(to + length, "cpus", online_cpus());
    if (!send_outgoing(FRAME_METRICS, length))
        exit_process(0);
}
