// What can go wrong between this process and the agent in the guest.

/** Why the agent did not do what it was asked for. */
export type AgentErrorCode =
  /** Nobody listens at the agent's port: the guest has no agent, or has not come so far yet. */
  | 'AGENT_MISSING'
  /** There is an agent, of another version of the protocol. */
  | 'AGENT_VERSION'
  /** What listens there is no agent, or one that breaks the protocol. */
  | 'PROTOCOL'
  /** The guest has no such program. */
  | 'PROGRAM_NOT_FOUND'
  /** It is there, and the guest's kernel does not run it. */
  | 'NOT_EXECUTABLE'
  /** The working directory cannot be entered. */
  | 'BAD_CWD'
  /** Arguments, output or a copy beyond what is allowed. */
  | 'TOO_LARGE'
  /** The guest has no such user or group, or its agent may not become it. */
  | 'NO_USER'
  /** The guest has no pseudo-terminals. */
  | 'NO_TTY'
  /** The caller's `timeout` is over. */
  | 'TIMEOUT'
  /** The caller's AbortSignal fired. */
  | 'ABORTED'
  /** The connection broke off: the VM has ended, or the guest has reset, or the agent was killed. */
  | 'GUEST_GONE'
  /** No room for what is copied; `side` says where. */
  | 'DISK_FULL'
  /** The copy's final name is taken by something that it does not replace. */
  | 'EXISTS'
  /** Nothing is at that path. */
  | 'PATH_NOT_FOUND'
  /** A device, socket or pipe, or folders nested too deeply. */
  | 'UNSUPPORTED_FILE'
  /** What arrived is not what was sent. */
  | 'CHECKSUM'
  /** Nobody answers at that port of the guest, or where a service of the host is to be. */
  | 'REFUSED'
  /** The guest is out of processes, descriptors or memory. */
  | 'NO_PROCESS'
  /** Nobody can be reached at the monitor's vsock socket. */
  | 'HOST_SOCKET'
  /** The host's port is taken, or not for this user. */
  | 'HOST_PORT'
  /** The guest's port or socket for a service of the host cannot be had. */
  | 'GUEST_PORT'
  /** Any other failure of a file operation; `errno` says which. */
  | 'IO';

export interface AgentErrorDetails {
  /** Whose disk, path or memory it was. */
  readonly side?: 'guest' | 'host';
  /** Linux's number of the error, where there is one. */
  readonly errno?: number;
  readonly cause?: unknown;
}

/** Something that the agent was asked for and that could not be done. */
export class AgentError extends Error {
  /** For those who cannot use `instanceof`. */
  override readonly name = 'AgentError';
  /** What went wrong, for programs. */
  readonly code: AgentErrorCode;
  /** Whose disk, path, port or memory it was, where that is known. */
  readonly side: 'guest' | 'host' | undefined;
  /** Linux's number of the error, where there is one. */
  readonly errno: number | undefined;

  /** @internal */
  constructor(code: AgentErrorCode, message: string, { side, errno, cause }: AgentErrorDetails = {}) {
    super(printable(message), cause === undefined ? undefined : { cause });
    this.code = code;
    this.side = side;
    this.errno = errno;
  }
}

/** What a message quotes may be a guest's (a path, a name), and is not to move the cursor of a terminal. */
function printable(text: string): string {
  return text.replaceAll(/[\p{Cc}\p{Cf}\u2028\u2029]/gu, (character) => {
    const code = character.codePointAt(0) ?? 0;
    return `\\u{${code.toString(16)}}`;
  });
}

/** What an error says, whatever it is; by its shape, since errors of Node's own may be of another realm. */
export function messageOf(error: unknown): string {
  const { message } = (error ?? {}) as { readonly message?: unknown };
  return typeof message === 'string' ? message : String(error);
}
