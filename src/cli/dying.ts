// For commands that end by signals as programs usually do, but not in the middle of something: a signal that comes while
// JavaScript runs is obeyed when that is through. Main thread.

import { type EndingSignal, SIGNAL_EXITS } from './exit-codes.js';

/** Runs `action`, in which every step that is not to be torn apart is without an `await`. */
export async function betweenSteps<T>(action: () => Promise<T>): Promise<T> {
  const listeners = (Object.keys(SIGNAL_EXITS) as EndingSignal[]).map((signal) => {
    const listener = (): void => {
      // Its default action: process.exit would wait for threads.
      process.removeAllListeners(signal);
      process.kill(process.pid, signal);
    };
    process.on(signal, listener);
    return [signal, listener] as const;
  });
  try {
    return await action();
  } finally {
    for (const [signal, listener] of listeners) process.off(signal, listener);
  }
}
