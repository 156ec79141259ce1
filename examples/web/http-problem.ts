// Requests that cannot be served, as errors.

/** What is answered: a status, and a line of text that says why. */
export class HttpProblem extends Error {
  readonly status: number;

  constructor(status: number, message: string) {
    super(message);
    this.status = status;
  }
}
