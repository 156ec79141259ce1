// SPDX-License-Identifier: Apache-2.0
//
// Kernel modules for the agent as process 1: loads those that /etc/tsvmm/modules names, one path a line, in that order, which
// `tsvmm image --modules` has made to be the right one. It comes before all else, since the disk with the root and vsock may be
// among them.
//
// A file that is compressed is for the kernel to unpack (CONFIG_MODULE_DECOMPRESS, Linux 5.17). Left out: finding out what a
// module needs, parameters, unloading.

#include "session.h"
#include <linux/utsname.h>

#define MODULE_LIST "/etc/tsvmm/modules"
#define MODULE_INIT_COMPRESSED_FILE 4
// Some thousand paths.
#define LIST_BYTES (128 * 1024)

static char list[LIST_BYTES];

static bool ends_with(const char *text, const char *end)
{
    size_t length = text_length(text), count = text_length(end);
    return length >= count && same_text(text + length - count, end);
}

static bool is_compressed(const char *path)
{
    return ends_with(path, ".gz") || ends_with(path, ".xz") || ends_with(path, ".zst");
}

// Whether a path such as /usr/lib/modules/VERSION/... is of another kernel than this one, which would take none of them.
static bool is_of_another_kernel(const char *path, const char *release)
{
    static const char parent[] = "/modules/";
    size_t length = text_length(release);
    for (; *path != '\0'; path++) {
        if (!begins_with(path, parent, sizeof parent - 1))
            continue;
        const char *version = path + sizeof parent - 1;
        return !begins_with(version, release, length) || version[length] != '/';
    }
    return false;
}

static void load_module(const char *path)
{
    int fd = (int)sys3(open, path, O_RDONLY | O_CLOEXEC, 0);
    if (fd < 0) {
        say_error("there is no kernel module ", path, fd);
        return;
    }
    bool compressed = is_compressed(path);
    long error = sys3(finit_module, fd, "", compressed ? MODULE_INIT_COMPRESSED_FILE : 0);
    close_fd(fd);
    // It is loaded already, or there is no such hardware, a processor's instructions for instance: neither is a fault.
    if (error == 0 || error == -EEXIST || error == -ENODEV)
        return;
    bool unknown = compressed && (error == -EINVAL || error == -EOPNOTSUPP || error == -ENOEXEC);
    const char *what = unknown ? "the kernel cannot unpack its modules (CONFIG_MODULE_DECOMPRESS): " : "cannot load ";
    say_error(what, path, error);
}

void load_modules(void)
{
    static struct new_utsname kernel;
    long length = read_text(MODULE_LIST, list, sizeof list);
    if (length < 0)
        return;
    if ((size_t)length == sizeof list - 1)
        say("tsvmm-agent: " MODULE_LIST " is too long: its end is left out\n");
    sys1(uname, &kernel);
    for (char *at = list; *at != '\0';) {
        char *line = at;
        while (*at != '\0' && *at != '\n')
            at++;
        // Nothing that may have been cut short.
        if (*at == '\0' && length == sizeof list - 1)
            return;
        if (*at != '\0')
            *at++ = '\0';
        if (*line == '\0' || *line == '#')
            continue;
        if (is_of_another_kernel(line, kernel.release)) {
            say("tsvmm-agent: no modules are loaded: this kernel is ");
            say(kernel.release);
            say(", and " MODULE_LIST " has ");
            say(line);
            say("\n");
            return;
        }
        load_module(line);
    }
}
