// SPDX-License-Identifier: Apache-2.0
//
// Who a program is to run as: "user", "user:group", by name or number, as the guest's /etc/passwd and /etc/group have it.
// Both files are the guest's own and may hold anything: what is no entry is passed over.

#include "session.h"

#define LINE_BYTES 4096U

struct lines {
    int fd;
    u32 begin, end;
    // The rest of a line that is too long for an entry.
    bool skip;
    char bytes[LINE_BYTES];
};

static void open_lines(struct lines *lines, const char *path)
{
    lines->fd = (int)sys3(open, path, O_RDONLY | O_CLOEXEC | O_NONBLOCK, 0);
    lines->begin = lines->end = 0;
    lines->skip = false;
}

// The next whole line, without its end; NULL after the last.
static char *next_line(struct lines *lines)
{
    for (;;) {
        for (u32 i = lines->begin; i < lines->end; i++) {
            if (lines->bytes[i] != '\n')
                continue;
            char *line = lines->bytes + lines->begin;
            bool skipped = lines->skip;
            lines->bytes[i] = '\0';
            lines->begin = i + 1;
            lines->skip = false;
            if (!skipped)
                return line;
        }
        u32 kept = lines->end - lines->begin;
        if (kept == LINE_BYTES - 1) {
            lines->skip = true;
            kept = 0;
        }
        move_bytes(lines->bytes, lines->bytes + lines->begin, kept);
        lines->begin = 0;
        lines->end = kept;
        long got = lines->fd < 0 ? 0 : read_some(lines->fd, lines->bytes + kept, LINE_BYTES - 1 - kept);
        if (got > 0) {
            lines->end += (u32)got;
            continue;
        }
        close_fd(lines->fd);
        lines->fd = -1;
        if (kept == 0 || lines->skip)
            return NULL;
        // The last line has no end.
        lines->bytes[lines->end++] = '\n';
    }
}

// Splits a line by colons; false when there are fewer fields.
static bool split(char *line, char **fields, u32 count)
{
    for (u32 i = 0; i < count; i++) {
        fields[i] = line;
        while (*line != '\0' && *line != ':')
            line++;
        if (*line == ':')
            *line++ = '\0';
        else if (i + 1 < count)
            return false;
    }
    return true;
}

// root:x:0:0:root:/root:/bin/bash
static bool find_user(const char *user, struct identity *identity, const char **name)
{
    static struct lines lines;
    static char found_name[64], found_home[1024];
    char *fields[7];
    u32 number = 0;
    bool numeric = read_decimal(user, &number), by_number = false;
    open_lines(&lines, "/etc/passwd");
    for (char *line; (line = next_line(&lines)) != NULL;) {
        u32 uid, gid;
        if (!split(line, fields, 7) || !read_decimal(fields[2], &uid) || !read_decimal(fields[3], &gid))
            continue;
        bool same_name = same_text(fields[0], user);
        // A user that is called 1000 comes before the one who has that number.
        if (!same_name && (by_number || !numeric || uid != number))
            continue;
        size_t name_size = text_length(fields[0]) + 1, home_size = text_length(fields[5]) + 1;
        if (name_size > sizeof found_name || home_size > sizeof found_home)
            continue;
        copy_bytes(found_name, fields[0], name_size);
        copy_bytes(found_home, fields[5], home_size);
        identity->uid = uid;
        identity->gid = gid;
        identity->home = found_home;
        *name = found_name;
        by_number = true;
        if (same_name)
            break;
    }
    close_fd(lines.fd);
    if (*name != NULL)
        return true;
    identity->uid = number;
    return numeric;
}

// wheel:x:10:alice,bob
static bool is_member(const char *members, const char *name)
{
    size_t length = text_length(name);
    while (*members != '\0') {
        if (begins_with(members, name, length) && (members[length] == ',' || members[length] == '\0'))
            return true;
        while (*members != '\0' && *members++ != ',')
            ;
    }
    return false;
}

static bool find_group(const char *group, struct identity *identity)
{
    static struct lines lines;
    char *fields[4];
    u32 gid;
    open_lines(&lines, "/etc/group");
    for (char *line; (line = next_line(&lines)) != NULL;) {
        if (split(line, fields, 4) && same_text(fields[0], group) && read_decimal(fields[2], &gid)) {
            identity->gid = gid;
            close_fd(lines.fd);
            return true;
        }
    }
    return read_decimal(group, &identity->gid);
}

static void find_groups_of(const char *name, struct identity *identity)
{
    static struct lines lines;
    char *fields[4];
    u32 gid;
    open_lines(&lines, "/etc/group");
    for (char *line; (line = next_line(&lines)) != NULL;) {
        if (!split(line, fields, 4) || !read_decimal(fields[2], &gid) || !is_member(fields[3], name))
            continue;
        if (identity->group_count < IDENTITY_GROUPS)
            identity->groups[identity->group_count++] = gid;
    }
}

bool find_identity(char *user, struct identity *identity)
{
    const char *name = NULL;
    char *group = user;
    *identity = (struct identity){.home = "/"};
    while (*group != '\0' && *group != ':')
        group++;
    bool has_group = *group == ':';
    if (has_group)
        *group++ = '\0';
    if (!find_user(user, identity, &name))
        return false;
    if (has_group)
        return find_group(group, identity);
    if (name != NULL)
        find_groups_of(name, identity);
    return true;
}

long assume_identity(const struct identity *identity)
{
    long error = sys2(setgroups, identity->group_count, identity->groups);
    if (error == 0)
        error = sys1(setgid, identity->gid);
    return error == 0 ? sys1(setuid, identity->uid) : error;
}
