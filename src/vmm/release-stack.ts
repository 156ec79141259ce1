// Ownership on set-up paths: what was acquired is released in reverse order, once, whatever happened in between.

import { forget, releaseWithProcess } from './process-end.js';

/** Collects release functions. */
export class ReleaseStack {
  private readonly releases: (() => void)[] = [];

  /** Registers `release` for `resource` and gives the resource back. */
  own<T>(resource: T, release: (resource: T) => void): T {
    if (this.releases.length === 0) releaseWithProcess(this);
    this.releases.push(() => {
      release(resource);
    });
    return resource;
  }

  /** Releases everything, the newest first. Every release runs; throws AggregateError of those that failed. */
  releaseAll(): void {
    const failures: unknown[] = [];
    forget(this);
    for (let release = this.releases.pop(); release !== undefined; release = this.releases.pop()) {
      try {
        release();
      } catch (error) {
        failures.push(error);
      }
    }
    if (failures.length > 0) throw new AggregateError(failures, 'resources of a VM were not released');
  }
}
