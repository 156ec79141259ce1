// SPDX-License-Identifier: Apache-2.0
//
// Runs a program for the host: without a shell, in a session and process group of its own, with pipes or a
// pseudo-terminal.
//
// The host's stdin comes under a window, so that a program that does not read never keeps a signal from being heard.
// Output has no window: what the host does not take stays in the pipes, and the program waits.
//
// The program has ended when its first process has. What the pipes hold then is still sent; processes that it left
// behind live on, without anyone to write to.

#include "session.h"
#include <asm/termbits.h>

#define STRINGS_BYTES (2U << 20)
#define STRINGS_MAX 32768
#define STDIN_WINDOW (256U << 10)
#define OUTPUT_BYTES 65536U
// More than pipes usually hold, and an end to it when somebody left behind goes on writing.
#define DRAIN_BYTES (1U << 20)
#define CONTROL_D 4

#define TIOCGPTPEER_REQUEST 0x5441U

struct window_size {
    u16 rows, columns, x_pixels, y_pixels;
};

// ---- What is to be run

static char strings[STRINGS_BYTES];
static u32 strings_used;
static char *arguments[STRINGS_MAX + 1];
static u32 argument_count;
static char *variables[STRINGS_MAX + 1];
static u32 variable_count;
static char *working_directory;
static struct window_size window;
static bool wants_tty;
static char *user;
static struct identity identity;

static char *keep(const char *text)
{
    size_t size = text_length(text) + 1;
    if (size > STRINGS_BYTES - strings_used)
        fail(ERROR_TOO_LARGE, E2BIG, "the arguments and the environment are too large");
    char *kept = strings + strings_used;
    copy_bytes(kept, text, size);
    strings_used += (u32)size;
    return kept;
}

// An argument may be empty, and must not have a NUL in it.
static char *keep_payload(struct frame *frame)
{
    if (text_length((char *)frame->payload) != frame->length)
        fail_protocol("an argument has a NUL in it");
    return keep((char *)frame->payload);
}

static size_t name_length(const char *variable)
{
    size_t length = 0;
    while (variable[length] != '\0' && variable[length] != '=')
        length++;
    return length;
}

static void unset_variable(const char *variable)
{
    size_t length = name_length(variable);
    for (u32 i = 0; i < variable_count; i++) {
        if (name_length(variables[i]) == length && begins_with(variables[i], variable, length))
            variables[i--] = variables[--variable_count];
    }
}

static void set_variable(char *variable)
{
    unset_variable(variable);
    if (variable[name_length(variable)] == '\0')
        return;
    if (variable_count == STRINGS_MAX)
        fail(ERROR_TOO_LARGE, E2BIG, "there are too many variables");
    variables[variable_count++] = variable;
}

static const char *find_variable(const char *name)
{
    size_t length = text_length(name);
    for (u32 i = 0; i < variable_count; i++) {
        if (name_length(variables[i]) == length && begins_with(variables[i], name, length))
            return variables[i] + length + 1;
    }
    return NULL;
}

static void read_window(struct frame *frame)
{
    if (frame->length != 8)
        fail_protocol("TTY is not 8 bytes");
    window.rows = (u16)load_u32(frame->payload);
    window.columns = (u16)load_u32(frame->payload + 4);
    wants_tty = true;
}

static void become_user(void)
{
    static char home[PATH_BYTES] = "HOME=";
    // Looking for a group cuts the text in two; what could not be found is told as it came.
    char *whole = keep(user);
    if (!find_identity(user, &identity))
        fail(ERROR_NO_USER, 0, whole);
    user = whole;
    size_t size = text_length(identity.home) + 1;
    if (size <= sizeof home - 5) {
        copy_bytes(home + 5, identity.home, size);
        set_variable(home);
    }
}

// Takes everything up to EXEC, whose flags are returned. The host's variables wait in `changes` until it is known
// what they change.
static u32 read_request(struct frame *frame, char **changes, u32 *change_count)
{
    for (;; receive_or_exit(frame)) {
        switch (frame->type) {
        case FRAME_ARG:
            if (argument_count == STRINGS_MAX)
                fail(ERROR_TOO_LARGE, E2BIG, "there are too many arguments");
            arguments[argument_count++] = keep_payload(frame);
            break;
        case FRAME_ENV:
            if (*change_count == STRINGS_MAX)
                fail(ERROR_TOO_LARGE, E2BIG, "there are too many variables");
            changes[(*change_count)++] = keep_payload(frame);
            break;
        case FRAME_CWD:
            working_directory = keep(payload_text(frame, 0));
            break;
        case FRAME_USER:
            user = keep(payload_text(frame, 0));
            break;
        case FRAME_TTY:
            read_window(frame);
            break;
        case FRAME_EXEC:
            if (frame->length != 4 || argument_count == 0 || arguments[0][0] == '\0')
                fail_protocol("EXEC has no program");
            return load_u32(frame->payload);
        default:
            fail_protocol("a frame is of no kind that can come before EXEC");
        }
    }
}

// ---- Starting it

// What the child could not do, through a pipe that exec closes.
struct start_failure {
    u32 code;
    u32 error;
};

struct program {
    int pid;
    // The agent's ends; -1 where there is none (any more). With a terminal `in` and `out` are both the master.
    int in, out, error;
    bool tty;
};

static void open_pipe(int ends[2])
{
    long error = sys2(pipe2, ends, O_CLOEXEC);
    if (error < 0)
        fail(ERROR_NO_PROCESS, error, "no pipe can be made");
}

static int open_terminal(int *master)
{
    int unlocked = 0, number = 0;
    *master = (int)sys3(open, "/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK, 0);
    if (*master < 0)
        fail(ERROR_NO_TTY, *master, "/dev/ptmx cannot be opened");
    sys3(ioctl, *master, TIOCSPTLCK, &unlocked);
    sys3(ioctl, *master, TIOCSWINSZ, &window);
    long terminal = sys3(ioctl, *master, TIOCGPTPEER_REQUEST, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (terminal < 0 && sys3(ioctl, *master, TIOCGPTN, &number) == 0) {
        // Linux before 4.13: by its name, which wants devpts at its usual place.
        char path[32] = "/dev/pts/";
        path[9 + write_decimal(path + 9, (u64)number)] = '\0';
        terminal = sys3(open, path, O_RDWR | O_NOCTTY | O_CLOEXEC, 0);
    }
    if (terminal < 0)
        fail(ERROR_NO_TTY, terminal, "the terminal of /dev/ptmx cannot be opened");
    return (int)terminal;
}

static _Noreturn void report_failure(int report, u32 code, long error)
{
    struct start_failure failure = {code, (u32)-error};
    write_all(report, &failure, sizeof failure);
    exit_process(127);
}

// Tries the program in each folder of PATH, as execvp would. Returns the error that says most.
static long search_and_execute(void)
{
    static char path[PATH_BYTES];
    const char *name = arguments[0];
    size_t length = text_length(name);
    long error = -ENOENT;
    for (size_t i = 0; i < length; i++) {
        if (name[i] == '/')
            return sys3(execve, name, arguments, variables);
    }
    const char *folder = find_variable("PATH");
    while (folder != NULL) {
        size_t folder_length = 0;
        while (folder[folder_length] != '\0' && folder[folder_length] != ':')
            folder_length++;
        // An empty part stands for the current folder elsewhere; here it is passed over.
        if (folder_length > 0 && folder_length + length + 2 <= sizeof path) {
            copy_bytes(path, folder, folder_length);
            path[folder_length] = '/';
            copy_bytes(path + folder_length + 1, name, length + 1);
            long result = sys3(execve, path, arguments, variables);
            if (result != -ENOENT && result != -ENOTDIR && error == -ENOENT)
                error = result;
            if (error != -ENOENT && error != -EACCES)
                return error;
        }
        folder = folder[folder_length] == ':' ? folder + folder_length + 1 : NULL;
    }
    return error;
}

static _Noreturn void become_program(const int ends[3], bool tty, int report)
{
    u64 none = 0;
    sys0(setsid);
    for (int fd = 0; fd < 3; fd++)
        sys2(dup2, ends[fd], fd);
    if (tty)
        sys3(ioctl, 0, TIOCSCTTY, 0);
    default_signal(SIGPIPE);
    default_signal(SIGCHLD);
    sys4(rt_sigprocmask, SIG_SETMASK, &none, 0, sizeof none);
    sys1(umask, 022);
    if (user != NULL) {
        if (tty)
            sys3(fchown, 0, identity.uid, identity.gid);
        long error = assume_identity(&identity);
        if (error < 0)
            report_failure(report, ERROR_NO_USER, error);
    }
    // Not before: becoming another user takes it back.
    sys2(prctl, PR_SET_PDEATHSIG, SIGKILL);
    if (working_directory != NULL) {
        long error = sys1(chdir, working_directory);
        if (error < 0)
            report_failure(report, ERROR_CWD, error);
    }
    long error = search_and_execute();
    bool missing = error == -ENOENT || error == -ENOTDIR;
    report_failure(report, missing ? ERROR_PROGRAM_NOT_FOUND : error == -E2BIG ? ERROR_TOO_LARGE : ERROR_NOT_EXECUTABLE,
                   error);
}

// Descriptors 0 to 2 are what children are given: none of the agent's own may lie there.
static void start(struct program *program)
{
    int report[2], in[2], out[2], error[2], ends[3];
    open_pipe(report);
    program->tty = wants_tty;
    program->error = -1;
    if (wants_tty) {
        int terminal = open_terminal(&program->out);
        program->in = program->out;
        ends[0] = ends[1] = ends[2] = terminal;
    } else {
        open_pipe(in);
        open_pipe(out);
        open_pipe(error);
        program->in = in[1];
        program->out = out[0];
        program->error = error[0];
        ends[0] = in[0];
        ends[1] = out[1];
        ends[2] = error[1];
        sys3(fcntl, program->in, F_SETFL, O_WRONLY | O_NONBLOCK);
        sys3(fcntl, program->out, F_SETFL, O_RDONLY | O_NONBLOCK);
        sys3(fcntl, program->error, F_SETFL, O_RDONLY | O_NONBLOCK);
    }
    program->pid = (int)sys0(fork);
    if (program->pid < 0)
        fail(ERROR_NO_PROCESS, program->pid, "no process can be made");
    if (program->pid == 0)
        become_program(ends, wants_tty, report[1]);
    for (int i = 0; i < (wants_tty ? 1 : 3); i++)
        close_fd(ends[i]);
    close_fd(report[1]);
    struct start_failure failure;
    if (read_some(report[0], &failure, sizeof failure) == sizeof failure) {
        sys4(wait4, program->pid, 0, 0, 0);
        const char *which = failure.code == ERROR_CWD ? working_directory : failure.code == ERROR_NO_USER ? user : arguments[0];
        fail(failure.code, failure.error, which);
    }
    close_fd(report[0]);
}

// ---- While it runs

static struct program program;

// The rest of a frame for the host.
static const u8 *output;
static u32 output_left;
static bool error_first;
static bool closed_to_tell;

// What the host sent for the program: a ring.
static u8 input[STDIN_WINDOW];
static u32 input_begin, input_end;
// What the host may still send.
static u32 input_granted = STDIN_WINDOW;
// What the program took and the host has not been told of.
static u32 input_taken;
static bool input_ended;
// Its first process is gone: whoever has its number now, and what it left behind, is left alone.
static bool reaped;

static void kill_program(void)
{
    if (!reaped)
        sys2(kill, -program.pid, SIGKILL);
}

static _Noreturn void abandon(void)
{
    kill_program();
    exit_process(0);
}

// The host has broken the rules.
static void break_off(void)
{
    kill_program();
    // A half-sent frame cannot be followed by one that says why.
    if (output_left > 0)
        finish_session();
}

static void queue_frame(u32 type, u32 length)
{
    output_left = seal_outgoing(type, length, &output);
}

static void send_output(void)
{
    while (output_left > 0) {
        long done = sys6(sendto, connection, output, output_left, MSG_DONTWAIT | MSG_NOSIGNAL, 0, 0);
        if (done == -EAGAIN)
            return;
        if (done == -EINTR)
            continue;
        if (done <= 0)
            abandon();
        output += done;
        output_left -= (u32)done;
    }
}

static void close_input(void)
{
    // The master of a terminal is for output too.
    if (!program.tty)
        close_fd(program.in);
    program.in = -1;
}

static void feed_program(void)
{
    while (program.in >= 0 && input_begin != input_end) {
        u32 start = input_begin % STDIN_WINDOW;
        u32 length = input_end - input_begin;
        if (length > STDIN_WINDOW - start)
            length = STDIN_WINDOW - start;
        long done = sys3(write, program.in, input + start, length);
        if (done == -EAGAIN)
            return;
        if (done == -EINTR)
            continue;
        if (done <= 0) {
            // Nobody reads any more; the program may go on all the same.
            close_input();
            closed_to_tell = true;
            return;
        }
        input_begin += (u32)done;
        input_taken += (u32)done;
    }
    if (input_ended && program.in >= 0 && input_begin == input_end) {
        if (program.tty) {
            u8 end = CONTROL_D;
            if (sys3(write, program.in, &end, 1) == -EAGAIN)
                return;
        }
        close_input();
    }
}

static void take_input(struct frame *frame)
{
    input_granted -= frame->length;
    if (frame->length == 0)
        input_ended = true;
    if (program.in < 0)
        return;
    for (u32 done = 0; done < frame->length;) {
        u32 start = input_end % STDIN_WINDOW;
        u32 length = frame->length - done;
        if (length > STDIN_WINDOW - start)
            length = STDIN_WINDOW - start;
        copy_bytes(input + start, frame->payload + done, length);
        input_end += length;
        done += length;
    }
}

static void obey(struct frame *frame)
{
    switch (frame->type) {
    case FRAME_STDIN:
        if (input_ended || frame->length > input_granted)
            fail_protocol("STDIN beyond its end or its window");
        take_input(frame);
        feed_program();
        return;
    case FRAME_SIGNAL:
        if (frame->length != 4 || load_u32(frame->payload) > 64)
            fail_protocol("SIGNAL names no signal");
        sys2(kill, -program.pid, load_u32(frame->payload));
        return;
    case FRAME_TTY:
        if (frame->length != 8 || !program.tty)
            fail_protocol("TTY where there is none");
        read_window(frame);
        sys3(ioctl, program.out, TIOCSWINSZ, &window);
        return;
    default:
        fail_protocol("a frame is of no kind that can come while a program runs");
    }
}

static void listen_to_host(void)
{
    struct frame frame;
    for (;;) {
        switch (receive(&frame, MSG_DONTWAIT)) {
        case RECEIVED_FRAME:
            obey(&frame);
            break;
        case RECEIVED_PART:
            return;
        case RECEIVED_END:
            abandon();
        }
    }
}

// Makes a frame of what the program has written there. Closes what has ended. False when there was nothing.
static bool read_output(int *fd, u32 type)
{
    if (*fd < 0)
        return false;
    long got = read_some(*fd, outgoing(), OUTPUT_BYTES);
    if (got > 0) {
        queue_frame(type, (u32)got);
        return true;
    }
    if (got != -EAGAIN) {
        // A terminal that nobody has open any more: EIO. It stays open here until the program is gone: closing it hangs
        // up, and a program that is just exiting would seem to have been ended by SIGHUP.
        if (program.tty)
            program.in = -1;
        else
            close_fd(*fd);
        *fd = -1;
    }
    return false;
}

// The next frame for the host, if there is anything to say.
static void next_output(void)
{
    if (output_left > 0)
        return;
    if (closed_to_tell) {
        closed_to_tell = false;
        queue_frame(FRAME_STDIN_CLOSED, 0);
        return;
    }
    // Not for each few bytes: a quarter of the window at a time.
    if (input_taken >= STDIN_WINDOW / 4 && !input_ended) {
        store_u32(outgoing(), input_taken);
        input_granted += input_taken;
        input_taken = 0;
        queue_frame(FRAME_STDIN_WINDOW, 4);
        return;
    }
    // In turns: one that writes without end does not keep the other from being heard.
    error_first = !error_first;
    if (error_first && read_output(&program.error, FRAME_STDERR))
        return;
    if (read_output(&program.out, FRAME_STDOUT) || error_first)
        return;
    read_output(&program.error, FRAME_STDERR);
}

static bool has_exited(int *status)
{
    reaped = sys4(wait4, program.pid, status, WNOHANG, 0) == program.pid;
    return reaped;
}

static int watch_children(void)
{
    u64 child = 1ULL << (SIGCHLD - 1);
    sys4(rt_sigprocmask, SIG_BLOCK, &child, 0, sizeof child);
    int fd = (int)sys4(signalfd4, -1, &child, sizeof child, O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        fail(ERROR_NO_PROCESS, fd, "no signalfd can be made");
    return fd;
}

// Returns the wait status of the program's first process.
static int supervise(int children)
{
    static u8 signals[1024];
    int status;
    for (;;) {
        next_output();
        send_output();
        bool full = output_left > 0;
        struct pollfd polls[5] = {
            {connection, (short)(POLLIN | (full ? POLLOUT : 0)), 0},
            {children, POLLIN, 0},
            // Also for a terminal's Ctrl-D that did not fit.
            {input_begin == input_end && !input_ended ? -1 : program.in, POLLOUT, 0},
            {full ? -1 : program.out, POLLIN, 0},
            {full ? -1 : program.error, POLLIN, 0},
        };
        long ready = sys3(poll, polls, 5, -1);
        if (ready < 0 && ready != -EINTR)
            abandon();
        if (polls[0].revents & ~POLLOUT)
            listen_to_host();
        if (polls[2].revents != 0)
            feed_program();
        if (polls[1].revents != 0) {
            while (read_some(children, signals, sizeof signals) > 0)
                ;
            if (has_exited(&status))
                return status;
        }
    }
}

// What was written before the end is still to be had; writers that were left behind are not waited for.
static void drain(void)
{
    for (u32 drained = 0;;) {
        while (output_left > 0) {
            struct pollfd host = {connection, POLLIN | POLLOUT, 0};
            struct frame frame;
            sys3(poll, &host, 1, -1);
            send_output();
            // What the host sends now comes too late, but that it hangs up has to be heard.
            while ((host.revents & ~POLLOUT) != 0) {
                enum received what = receive(&frame, MSG_DONTWAIT);
                if (what == RECEIVED_END)
                    exit_process(0);
                if (what == RECEIVED_PART)
                    break;
            }
        }
        if (drained >= DRAIN_BYTES)
            return;
        if (!read_output(&program.out, FRAME_STDOUT) && !read_output(&program.error, FRAME_STDERR))
            return;
        drained += output_left;
    }
}

void run_program(struct frame *frame, char **environment)
{
    static char *changes[STRINGS_MAX];
    u32 change_count = 0;
    u32 flags = read_request(frame, changes, &change_count);
    if ((flags & EXEC_CLEAR_ENV) == 0) {
        for (char **variable = environment; *variable != NULL && variable_count < STRINGS_MAX; variable++)
            variables[variable_count++] = *variable;
    }
    if (find_variable("PATH") == NULL)
        set_variable(keep("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"));
    if (user != NULL)
        become_user();
    for (u32 i = 0; i < change_count; i++)
        set_variable(changes[i]);
    variables[variable_count] = NULL;
    int children = watch_children();
    start(&program);
    clean_up = break_off;
    store_u32(outgoing(), (u32)program.pid);
    store_u32(outgoing() + 4, STDIN_WINDOW);
    queue_frame(FRAME_STARTED, 8);
    int status = supervise(children);
    drain();
    // wait(2): the signal is in the low seven bits, the exit status in the second byte.
    store_u32(outgoing(), (u32)status >> 8 & 0xff);
    store_u32(outgoing() + 4, (u32)status & 0x7f);
    clean_up = NULL;
    close_files();
    if (!send_outgoing(FRAME_EXIT, 8))
        exit_process(0);
}
