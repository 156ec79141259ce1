// What a failed request is answered with: a status, and a JSON array of messages from the outermost to the cause, as Cloud
// Hypervisor has it. Main thread.

import type { ContentfulStatusCode } from 'hono/utils/http-status';

export type ErrorStatus = ContentfulStatusCode & (400 | 404 | 405 | 413 | 500);

/** A request that is answered with an error. */
export class ApiError extends Error {
  override readonly name = 'ApiError';
  readonly status: ErrorStatus;
  /** The body. */
  readonly messages: readonly string[];

  constructor(status: ErrorStatus, messages: readonly string[], cause?: unknown) {
    super(messages.join(': '), cause === undefined ? undefined : { cause });
    this.status = status;
    this.messages = messages;
  }
}

/** Of the request itself: its method, its body. */
export function badRequest(...messages: readonly string[]): ApiError {
  return new ApiError(400, ['Bad Request', ...messages]);
}

/** How the monitor refuses. */
export type RefusalCode =
  /** There is no VM. */
  | 'NOT_CREATED'
  /** There is one already. */
  | 'ALREADY_CREATED'
  /** The VM is not in the state for it: not booted, not paused. */
  | 'WRONG_STATE'
  /** This monitor cannot do it at all, or not with this VM's configuration. */
  | 'NOT_SUPPORTED';

/** The monitor does not do what it was asked to. */
export class Refusal extends Error {
  override readonly name = 'Refusal';
  readonly code: RefusalCode;

  constructor(code: RefusalCode, message: string) {
    super(message);
    this.code = code;
  }
}

const REFUSAL_STATUS: Readonly<Record<RefusalCode, ErrorStatus>> = {
  NOT_CREATED: 404,
  ALREADY_CREATED: 500,
  WRONG_STATE: 405,
  NOT_SUPPORTED: 500,
};

/** The answer to a request that failed by `error`; `problem` says in words what did not come about. */
export function toApiError(error: unknown, problem: string): ApiError {
  if (error instanceof ApiError) return error;
  const [message, ...causes] = messagesOf(error);
  return new ApiError(statusOf(error), ['Error from API', problem, message, ...causes], error);
}

function statusOf(error: unknown): ErrorStatus {
  if (error instanceof Refusal) return REFUSAL_STATUS[error.code];
  // By name and code, so that the classes need not be loaded.
  if (!(error instanceof Error)) return 500;
  if (error.name === 'ConfigError') return 400;
  const code = error.name === 'VmError' && 'code' in error ? error.code : undefined;
  return code === 'NOT_RUNNING' ? 405 : 500;
}

/** The messages of an error and of what caused it, without those that the one before says already. */
function messagesOf(error: unknown): [string, ...string[]] {
  const first = error instanceof Error ? error.message : String(error);
  const messages: [string, ...string[]] = [first];
  let cause = error instanceof Error ? error.cause : undefined;
  while (cause instanceof Error && messages.length < 8) {
    if (!messages.some((said) => said.includes((cause as Error).message))) messages.push(cause.message);
    cause = cause.cause;
  }
  return messages;
}
