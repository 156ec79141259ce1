// SPDX-License-Identifier: Apache-2.0
//
// Files and folders between host and guest: a tree of frames, DIR and UP around what a folder holds, FILE, DATA and
// FILE_END for a file, LINK for a symbolic link. Modes are kept; owners, times, hard links and extended attributes
// are not.
//
// What comes in is built beside its final name, under a temporary one, and renamed when it is whole.

#include "session.h"

#define DEPTH_MAX 128
#define ENTRIES_BYTES 4096
#define MODE_MASK 07777U
#define CHUNK FRAME_MAX

// struct linux_dirent64: u64 ino, s64 offset, u16 record length, u8 type, name.
#define DIRENT_LENGTH 16
#define DIRENT_NAME 19

// ---- CRC-32 of ISO 3309, as in zip and PNG, four bytes at a time

static u32 crc_tables[4][256];

static void prepare_crc(void)
{
    for (u32 i = 0; i < 256; i++) {
        u32 crc = i;
        for (int bit = 0; bit < 8; bit++)
            crc = crc & 1 ? crc >> 1 ^ 0xedb88320U : crc >> 1;
        crc_tables[0][i] = crc;
    }
    for (u32 i = 0; i < 256; i++) {
        for (int table = 1; table < 4; table++) {
            u32 before = crc_tables[table - 1][i];
            crc_tables[table][i] = before >> 8 ^ crc_tables[0][before & 0xff];
        }
    }
}

static u32 update_crc(u32 crc, const u8 *bytes, size_t count)
{
    crc = ~crc;
    for (; count >= 4; bytes += 4, count -= 4) {
        u32 word = crc ^ load_u32(bytes);
        crc = crc_tables[3][word & 0xff] ^ crc_tables[2][word >> 8 & 0xff] ^ crc_tables[1][word >> 16 & 0xff] ^
              crc_tables[0][word >> 24];
    }
    for (; count > 0; bytes++, count--)
        crc = crc >> 8 ^ crc_tables[0][(crc ^ *bytes) & 0xff];
    return ~crc;
}

static bool is_dots(const char *name)
{
    return same_text(name, ".") || same_text(name, "..");
}

static u32 code_of(long error)
{
    switch (-error) {
    case ENOSPC:
    case EDQUOT:
        return ERROR_DISK_FULL;
    case ENOENT:
        return ERROR_PATH_NOT_FOUND;
    case EEXIST:
    case ENOTEMPTY:
        return ERROR_EXISTS;
    default:
        return ERROR_IO;
    }
}

// ---- Out of the guest

static char source[PATH_BYTES];

static void must_send(u32 type, u32 length)
{
    if (!send_outgoing(type, length))
        exit_process(0);
}

// Appends "/name" to the path that errors tell of, as far as it fits; returns the length before.
static size_t enter_path(char *path, const char *name)
{
    size_t length = text_length(path), added = text_length(name);
    if (length + added + 2 <= PATH_BYTES) {
        path[length] = '/';
        copy_bytes(path + length + 1, name, added + 1);
    }
    return length;
}

static void send_file(int fd, const struct stat *status, const char *name)
{
    size_t length = text_length(name);
    store_u32(outgoing(), status->st_mode & MODE_MASK);
    store_u64(outgoing() + 4, (u64)status->st_size);
    copy_bytes(outgoing() + 12, name, length);
    must_send(FRAME_FILE, 12 + (u32)length);
    u64 size = 0;
    u32 crc = 0;
    long got;
    while ((got = read_some(fd, outgoing(), CHUNK)) > 0) {
        crc = update_crc(crc, outgoing(), (size_t)got);
        size += (u64)got;
        must_send(FRAME_DATA, (u32)got);
    }
    if (got < 0)
        fail(ERROR_IO, got, source);
    store_u64(outgoing(), size);
    store_u32(outgoing() + 8, crc);
    must_send(FRAME_FILE_END, 12);
}

static void send_link(int folder, const char *path, const char *name)
{
    size_t length = text_length(name);
    copy_bytes(outgoing(), name, length + 1);
    long got = sys4(readlinkat, folder, path, outgoing() + length + 1, PATH_BYTES);
    if (got < 0)
        fail(code_of(got), got, source);
    must_send(FRAME_LINK, (u32)(length + 1) + (u32)got);
}

static void send_entry(int folder, const char *path, const char *name, int depth);

static void send_folder(int fd, const struct stat *status, const char *name, int depth)
{
    u8 entries[ENTRIES_BYTES];
    size_t length = text_length(name);
    if (depth == DEPTH_MAX)
        fail(ERROR_UNSUPPORTED_FILE, ELOOP, source);
    store_u32(outgoing(), status->st_mode & MODE_MASK);
    copy_bytes(outgoing() + 4, name, length);
    must_send(FRAME_DIR, 4 + (u32)length);
    long got;
    while ((got = sys3(getdents64, fd, entries, sizeof entries)) > 0) {
        for (long at = 0; at < got; at += *(u16 *)(entries + at + DIRENT_LENGTH)) {
            const char *entry = (const char *)entries + at + DIRENT_NAME;
            if (is_dots(entry))
                continue;
            size_t before = enter_path(source, entry);
            send_entry(fd, entry, entry, depth + 1);
            source[before] = '\0';
        }
    }
    if (got < 0)
        fail(ERROR_IO, got, source);
    must_send(FRAME_UP, 0);
}

// Opened first and looked at afterwards, so that it is the same thing that both see. O_NONBLOCK: a FIFO would wait.
static void send_entry(int folder, const char *path, const char *name, int depth)
{
    struct stat status;
    long error = sys4(newfstatat, folder, path, &status, AT_SYMLINK_NOFOLLOW);
    if (error < 0)
        fail(code_of(error), error, source);
    u32 kind = status.st_mode & S_IFMT;
    if (kind == S_IFLNK) {
        send_link(folder, path, name);
        return;
    }
    if (kind != S_IFREG && kind != S_IFDIR)
        fail(ERROR_UNSUPPORTED_FILE, 0, source);
    int fd = (int)sys4(openat, folder, path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0);
    if (fd < 0)
        fail(code_of(fd), fd, source);
    error = sys2(fstat, fd, &status);
    if (error < 0 || (status.st_mode & S_IFMT) != kind)
        fail(ERROR_IO, error, source);
    if (kind == S_IFREG)
        send_file(fd, &status, name);
    else
        send_folder(fd, &status, name, depth);
    close_fd(fd);
}

void send_tree(struct frame *request)
{
    const char *path = payload_text(request, 0);
    size_t length = text_length(path);
    if (length >= PATH_BYTES)
        fail(ERROR_PATH_NOT_FOUND, ENAMETOOLONG, "the path is too long");
    copy_bytes(source, path, length + 1);
    prepare_crc();
    char top[PATH_BYTES];
    copy_bytes(top, source, length + 1);
    send_entry(AT_FDCWD, top, "", 0);
    close_files();
    must_send(FRAME_TREE_END, 0);
}

// ---- Into the guest

// The final name's folder and the two names in it.
static int parent = -1;
static char final_name[PATH_BYTES];
static char temporary[64];
static bool created;

struct level {
    int fd;
    u32 mode;
};
static struct level levels[DEPTH_MAX];
static int depth;

static void remove_entry(int folder, const char *name, int level)
{
    u8 entries[ENTRIES_BYTES];
    if (sys3(unlinkat, folder, name, 0) != -EISDIR)
        return;
    int fd = (int)sys4(openat, folder, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0);
    if (fd == -EACCES) {
        // It has the mode that the host gave it, and the agent need not be root.
        sys3(fchmodat, folder, name, 0700);
        fd = (int)sys4(openat, folder, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0);
    }
    if (fd < 0)
        return;
    sys2(fchmod, fd, 0700);
    // What is removed may make the listing skip something: it is read again until there is nothing.
    bool found = level <= DEPTH_MAX;
    for (int round = 0; found && round < 1000; round++) {
        long got;
        found = false;
        sys3(lseek, fd, 0, 0);
        while ((got = sys3(getdents64, fd, entries, sizeof entries)) > 0) {
            for (long at = 0; at < got; at += *(u16 *)(entries + at + DIRENT_LENGTH)) {
                const char *entry = (const char *)entries + at + DIRENT_NAME;
                if (is_dots(entry))
                    continue;
                found = true;
                remove_entry(fd, entry, level + 1);
            }
        }
    }
    close_fd(fd);
    sys3(unlinkat, folder, name, AT_REMOVEDIR);
}

static void remove_temporary(void)
{
    if (created)
        remove_entry(parent, temporary, 0);
}

static _Noreturn void fail_io(long error)
{
    fail(code_of(error), error, final_name);
}

// Splits the path into an open folder and a last name.
static void open_parent(const char *path)
{
    static char folder[PATH_BYTES];
    size_t length = text_length(path), slash;
    if (length >= PATH_BYTES)
        fail(ERROR_PATH_NOT_FOUND, ENAMETOOLONG, "the path is too long");
    copy_bytes(folder, path, length + 1);
    while (length > 1 && folder[length - 1] == '/')
        folder[--length] = '\0';
    for (slash = length; slash > 0 && folder[slash - 1] != '/'; slash--)
        ;
    copy_bytes(final_name, folder + slash, length - slash + 1);
    if (length == slash || is_dots(final_name))
        fail(ERROR_EXISTS, EEXIST, path);
    folder[slash] = '\0';
    parent = (int)sys4(openat, AT_FDCWD, slash == 0 ? "." : folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    if (parent < 0)
        fail(code_of(parent), parent, slash == 0 ? "." : folder);
}

static void choose_temporary(void)
{
    static const char prefix[] = ".tsvmm-copy-";
    size_t length = sizeof prefix - 1;
    struct {
        u64 seconds, nanoseconds;
    } now = {0, 0};
    copy_bytes(temporary, prefix, length);
    sys2(clock_gettime, 1, &now);
    length += write_decimal(temporary + length, (u64)sys0(getpid));
    temporary[length++] = '-';
    length += write_decimal(temporary + length, now.seconds * 1000000000U + now.nanoseconds);
    temporary[length] = '\0';
}

// The name that an entry is made under: its own, within a folder of the tree; the temporary one at the top.
static const char *entry_name(char *name)
{
    if (depth == 0) {
        if (created)
            fail_protocol("a tree has one entry at its top");
        return temporary;
    }
    if (*name == '\0' || is_dots(name))
        fail_protocol("an entry has no name");
    for (const char *at = name; *at != '\0'; at++) {
        if (*at == '/')
            fail_protocol("an entry's name is a path");
    }
    return name;
}

static char *name_in(struct frame *frame, u32 offset)
{
    if (frame->length < offset || text_length((char *)frame->payload + offset) != frame->length - offset)
        fail_protocol("an entry has no name, or one with a NUL");
    return (char *)frame->payload + offset;
}

static int folder_at_hand(void)
{
    return depth == 0 ? parent : levels[depth - 1].fd;
}

static void receive_folder(struct frame *frame)
{
    const char *name = entry_name(name_in(frame, 4));
    if (depth == DEPTH_MAX)
        fail(ERROR_UNSUPPORTED_FILE, ELOOP, final_name);
    // Closed to others until it is whole; its mode might not even let the agent in.
    long error = sys3(mkdirat, folder_at_hand(), name, 0700);
    if (error < 0)
        fail_io(error);
    created = true;
    int fd = (int)sys4(openat, folder_at_hand(), name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0);
    if (fd < 0)
        fail_io(fd);
    levels[depth].fd = fd;
    levels[depth].mode = load_u32(frame->payload) & MODE_MASK;
    depth++;
}

static void leave_folder(void)
{
    if (depth == 0)
        fail_protocol("UP from the top");
    depth--;
    long error = sys2(fchmod, levels[depth].fd, levels[depth].mode);
    close_fd(levels[depth].fd);
    if (error < 0)
        fail_io(error);
}

static void write_data(int fd, const u8 *bytes, size_t count)
{
    while (count > 0) {
        long done = sys3(write, fd, bytes, count);
        if (done == -EINTR)
            continue;
        if (done <= 0)
            fail_io(done == 0 ? -ENOSPC : done);
        bytes += done;
        count -= (size_t)done;
    }
}

static void receive_file(struct frame *frame)
{
    const char *name = entry_name(name_in(frame, 12));
    u32 mode = load_u32(frame->payload) & MODE_MASK;
    int fd = (int)sys4(openat, folder_at_hand(), name, O_CREAT | O_EXCL | O_WRONLY | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        fail_io(fd);
    created = true;
    u64 size = 0;
    u32 crc = 0;
    for (;;) {
        receive_or_exit(frame);
        if (frame->type != FRAME_DATA)
            break;
        crc = update_crc(crc, frame->payload, frame->length);
        size += frame->length;
        write_data(fd, frame->payload, frame->length);
    }
    if (frame->type != FRAME_FILE_END || frame->length != 12)
        fail_protocol("a file has no end");
    if (load_u64(frame->payload) != size || load_u32(frame->payload + 8) != crc)
        fail(ERROR_CHECKSUM, 0, final_name);
    long error = sys2(fchmod, fd, mode);
    // Some file systems tell only now that the disk is full.
    long closed = sys1(close, fd);
    if (error < 0 || closed < 0)
        fail_io(error < 0 ? error : closed);
}

static void receive_link(struct frame *frame)
{
    char *name = (char *)frame->payload;
    size_t length = text_length(name);
    if (length + 1 >= frame->length || text_length(name + length + 1) != frame->length - length - 1)
        fail_protocol("a link has no target");
    long error = sys3(symlinkat, name + length + 1, folder_at_hand(), entry_name(name));
    if (error < 0)
        fail_io(error);
    created = true;
}

void receive_tree(struct frame *request)
{
    open_parent(payload_text(request, 0));
    choose_temporary();
    clean_up = remove_temporary;
    prepare_crc();
    struct frame frame;
    for (;;) {
        receive_or_exit(&frame);
        if (frame.type == FRAME_TREE_END)
            break;
        switch (frame.type) {
        case FRAME_DIR:
            receive_folder(&frame);
            break;
        case FRAME_UP:
            leave_folder();
            break;
        case FRAME_FILE:
            receive_file(&frame);
            break;
        case FRAME_LINK:
            receive_link(&frame);
            break;
        default:
            fail_protocol("a frame is of no kind that can come in a tree");
        }
    }
    if (depth != 0 || !created)
        fail_protocol("a tree is not whole");
    long error = sys4(renameat, parent, temporary, parent, final_name);
    if (error == -EISDIR || error == -ENOTDIR)
        fail(ERROR_EXISTS, error, final_name);
    if (error < 0)
        fail_io(error);
    created = false;
    close_files();
    if (!send_outgoing(FRAME_DONE, 0))
        exit_process(0);
}
