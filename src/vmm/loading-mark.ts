// A word by which a worker thread says that its modules are loaded. Any thread.
//
// Until then it must not be terminated: koffi, interrupted while it is loaded, ends the process with SIGABRT.

export class LoadingMark {
  readonly buffer: SharedArrayBuffer;
  private readonly words: Int32Array;

  constructor(buffer = new SharedArrayBuffer(4)) {
    this.buffer = buffer;
    this.words = new Int32Array(buffer);
  }

  /** For the thread: it may be terminated from now on. */
  loaded(): void {
    Atomics.store(this.words, 0, 1);
    Atomics.notify(this.words, 0);
  }

  /** Whether it has loaded; waits for that for at most so many milliseconds. */
  wait(milliseconds: number): boolean {
    Atomics.wait(this.words, 0, 0, milliseconds);
    return Atomics.load(this.words, 0) === 1;
  }
}
