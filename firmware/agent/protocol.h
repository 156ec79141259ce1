// SPDX-License-Identifier: Apache-2.0
//
// The protocol of docs/agent.md, version 2: its numbers. src/agent/protocol.ts has the same.

#ifndef AGENT_PROTOCOL_H
#define AGENT_PROTOCOL_H

#define AGENT_MAGIC 0x41767374U // "tsvA"
#define AGENT_VERSION 2U

#define DEFAULT_AGENT_PORT 7350U
#define DEFAULT_READY_PORT 7351U
#define DEFAULT_SERVICE_PORT 7352U

// le32 length of the payload, le32 type; then the payload.
#define FRAME_HEADER 8U
#define FRAME_MAX 131072U

enum frame_type {
    // Both ways.
    FRAME_HELLO = 1, // le32 magic, le32 version
    FRAME_ERROR = 2, // le32 enum error_code, le32 errno, text. Only from the agent; the session is over.
    FRAME_PING = 3,  // anything; answered by FRAME_PONG with the same
    FRAME_PONG = 4,
    FRAME_SYNC = 5, // empty from the host; answered by the same when all disks have everything

    // A program: ARG..., ENV..., CWD, TTY as needed, then EXEC.
    FRAME_ARG = 16,
    FRAME_ENV = 17,  // NAME=VALUE; NAME alone takes it away
    FRAME_CWD = 18,
    FRAME_TTY = 19,  // le32 rows, le32 columns; again while it runs: the window has another size
    FRAME_EXEC = 20, // le32 flags
    FRAME_STARTED = 21, // le32 process id, le32 bytes of stdin that may be sent
    FRAME_STDIN = 22,   // empty: the end
    FRAME_STDIN_WINDOW = 23, // le32: that many bytes more
    FRAME_STDIN_CLOSED = 24, // the program reads no more
    FRAME_STDOUT = 25,
    FRAME_STDERR = 26,
    FRAME_SIGNAL = 27, // le32 signal, for the process group
    FRAME_EXIT = 28,   // le32 exit status, le32 signal
    FRAME_USER = 29,   // before EXEC: "user" or "user:group", names or numbers

    // Files: PUT or GET, then a tree in the direction asked for.
    FRAME_PUT = 32, // path
    FRAME_GET = 33, // path
    FRAME_DIR = 34, // le32 mode, name
    FRAME_UP = 35,
    FRAME_FILE = 36, // le32 mode, le64 size as far as known, name
    FRAME_DATA = 37,
    FRAME_FILE_END = 38, // le64 size, le32 CRC-32
    FRAME_LINK = 39,     // name, NUL, target
    FRAME_TREE_END = 40,
    FRAME_DONE = 41,

    FRAME_METRICS = 48, // empty from the host; lines "name number" from the agent

    // Connections: after CONNECTED there are BYTES and BYTES_END both ways.
    FRAME_FORWARD = 49, // le32 TCP port
    FRAME_CONNECTED = 50,
    FRAME_BYTES = 51,
    FRAME_BYTES_END = 52, // empty; this side sends no more

    // Services of the host.
    FRAME_SERVE = 53, // le32 TCP port or 0, name; the session lasts as long as the service
    FRAME_SERVING = 54,
    FRAME_SERVICE = 55, // name; from the guest, to the host's port for services
};

#define EXEC_CLEAR_ENV 1U

enum error_code {
    ERROR_PROTOCOL = 1,
    ERROR_VERSION = 2,
    ERROR_PROGRAM_NOT_FOUND = 3,
    ERROR_NOT_EXECUTABLE = 4,
    ERROR_CWD = 5,
    ERROR_TOO_LARGE = 6,
    ERROR_NO_TTY = 7,
    ERROR_IO = 8,
    ERROR_DISK_FULL = 9,
    ERROR_EXISTS = 10,
    ERROR_PATH_NOT_FOUND = 11,
    ERROR_UNSUPPORTED_FILE = 12,
    ERROR_CHECKSUM = 13,
    ERROR_REFUSED = 14,
    ERROR_NO_PROCESS = 15,
    ERROR_GUEST_PORT = 16,
    ERROR_NO_SERVICE = 17, // from the host only
    ERROR_NO_USER = 18,
};

#endif
