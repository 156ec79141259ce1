// What can go wrong with a stream between this process and the guest.

/** Why a stream could not be opened, or ended. */
export type VsockErrorCode =
  /** The VM was configured without a vsock device. */
  | 'NO_DEVICE'
  /** The guest has no vsock driver running (yet). */
  | 'DRIVER_NOT_READY'
  /** The guest answered that nobody listens at that port. */
  | 'REFUSED'
  /** No answer within the caller's `timeout`, or within the two seconds that a guest's driver is given. */
  | 'TIMED_OUT'
  /** The caller's AbortSignal fired. */
  | 'ABORTED'
  /** The guest broke the connection off, or its driver was reset. */
  | 'RESET'
  /** The guest reads no more, the stream or the VM has ended. */
  | 'CLOSED'
  /** Somebody in this process listens at that port already. */
  | 'PORT_IN_USE'
  /** There are as many connections as there may be. */
  | 'LIMIT';

const MESSAGES: Readonly<Record<VsockErrorCode, string>> = {
  NO_DEVICE: 'the VM has no vsock device; configure one with vsock: { cid }',
  DRIVER_NOT_READY: 'the guest has no vsock driver running yet; pass waitForDriver: true to wait for it',
  REFUSED: 'the guest refused the connection: nobody listens at that port',
  TIMED_OUT: 'the guest did not answer in time',
  ABORTED: 'the connection attempt was aborted',
  RESET: 'the guest reset the connection',
  CLOSED: 'the connection is closed',
  PORT_IN_USE: 'somebody listens at that port already; close that server first',
  LIMIT: 'the VM has as many vsock connections as it may have',
};

/** A stream that could not be opened or that ended too soon. */
export class VsockError extends Error {
  /** For those who cannot use `instanceof`. */
  override readonly name = 'VsockError';
  /** What went wrong, for programs. */
  readonly code: VsockErrorCode;
  /** The port that was asked for, or the guest's port of the stream. */
  readonly port: number | undefined;

  /** @internal */
  constructor(code: VsockErrorCode, port?: number, options?: ErrorOptions & { readonly detail?: string }) {
    const place = port === undefined ? 'vsock' : `vsock port ${port}`;
    super(`${place}: ${options?.detail ?? MESSAGES[code]}`, options);
    this.code = code;
    this.port = port;
  }
}
