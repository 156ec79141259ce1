// Pseudo-terminals and the size of a terminal: pty(7), ioctl_tty(2).

import { check, close, libc, O_NOCTTY, O_NONBLOCK, O_RDWR, open } from './libc.js';
import { NativeBuffer } from './native-buffer.js';
import type { Fd } from './units.js';

const TCGETS = 0x5401;
const TCSETS = 0x5402;
const TIOCGWINSZ = 0x5413;
const TIOCGPTN = 0x8004_5430;
const TIOCSPTLCK = 0x4004_5431;

// struct termios { tcflag_t c_iflag, c_oflag, c_cflag, c_lflag; cc_t c_line; cc_t c_cc[19]; }
const TERMIOS_SIZE = 36;
const C_IFLAG = 0;
const C_OFLAG = 4;
const C_CFLAG = 8;
const C_LFLAG = 12;

/** IGNBRK, BRKINT, PARMRK, ISTRIP, INLCR, IGNCR, ICRNL, IXON. */
const RAW_CLEARS_IFLAG = 0x0001 | 0x0002 | 0x0008 | 0x0020 | 0x0040 | 0x0080 | 0x0100 | 0x0400;
/** OPOST. */
const RAW_CLEARS_OFLAG = 0x0001;
/** CSIZE, PARENB. */
const RAW_CLEARS_CFLAG = 0x0030 | 0x0100;
const CS8 = 0x0030;
/** ISIG, ICANON, ECHO, ECHONL, IEXTEN. */
const RAW_CLEARS_LFLAG = 0x0001 | 0x0002 | 0x0008 | 0x0040 | 0x8000;

const argument = new NativeBuffer(TERMIOS_SIZE);

/** A pseudo-terminal: the caller owns `master`, which is non-blocking; others open `path`. */
export interface PseudoTerminal {
  readonly master: Fd;
  readonly path: string;
}

/** Makes one that passes every byte on as it is, as termios(3) says of cfmakeraw. Throws SysError. */
export function openPseudoTerminal(): PseudoTerminal {
  const master = open('/dev/ptmx', O_RDWR | O_NOCTTY | O_NONBLOCK);
  try {
    argument.setU32(0, 0);
    check(libc.ioctl(master, TIOCSPTLCK, argument.address), 'ioctl TIOCSPTLCK');
    check(libc.ioctl(master, TIOCGPTN, argument.address), 'ioctl TIOCGPTN');
    const path = `/dev/pts/${argument.u32(0)}`;
    const slave = openTerminal(path);
    try {
      makeRaw(slave);
    } finally {
      // From here on reading the master gives EIO and polling it POLLHUP until somebody opens the other side.
      close(slave);
    }
    return { master, path };
  } catch (error) {
    close(master);
    throw error;
  }
}

/** Opens a terminal without making it the process's own. The caller owns the descriptor. Throws SysError. */
export function openTerminal(path: string): Fd {
  return open(path, O_RDWR | O_NOCTTY | O_NONBLOCK);
}

function makeRaw(terminal: Fd): void {
  check(libc.ioctl(terminal, TCGETS, argument.address), 'ioctl TCGETS');
  argument.setU32(C_IFLAG, argument.u32(C_IFLAG) & ~RAW_CLEARS_IFLAG);
  argument.setU32(C_OFLAG, argument.u32(C_OFLAG) & ~RAW_CLEARS_OFLAG);
  argument.setU32(C_CFLAG, (argument.u32(C_CFLAG) & ~RAW_CLEARS_CFLAG) | CS8);
  argument.setU32(C_LFLAG, argument.u32(C_LFLAG) & ~RAW_CLEARS_LFLAG);
  check(libc.ioctl(terminal, TCSETS, argument.address), 'ioctl TCSETS');
}

export interface TerminalSize {
  readonly columns: number;
  readonly rows: number;
}

/** How large the terminal behind `fd` is; undefined when it is none, or does not know. */
export function terminalSize(fd: Fd): TerminalSize | undefined {
  // struct winsize { unsigned short ws_row, ws_col, ws_xpixel, ws_ypixel; }
  if (libc.ioctl(fd, TIOCGWINSZ, argument.address) < 0) return undefined;
  const rows = argument.view.getUint16(0, true);
  const columns = argument.view.getUint16(2, true);
  return rows === 0 || columns === 0 ? undefined : { columns, rows };
}
