// Rules for rate limits: a bucket that holds nothing, or is never refilled, would stop its device for good.

import type { RateLimiterConfig, TokenBucketConfig } from '../vm-config.js';
import { checkCount } from './numbers.js';
import type { Complain } from './rule.js';

const MAX_TOKENS = Number.MAX_SAFE_INTEGER;
/** A day: a longer time is a slip. */
const MAX_REFILL_MS = 86_400_000;

export function checkRateLimiter(
  complain: Complain,
  field: string,
  { bandwidth, ops }: RateLimiterConfig,
  operations: string,
): void {
  if (bandwidth !== undefined) checkBucket(complain, `${field}.bandwidth`, bandwidth, 'bytes');
  if (ops !== undefined) checkBucket(complain, `${field}.ops`, ops, operations);
}

function checkBucket(complain: Complain, field: string, bucket: TokenBucketConfig, unit: string): void {
  const { size, one_time_burst, refill_time } = bucket;
  refuseZero(complain, `${field}.size`, size, `0 ${unit} would let nothing through, ever`);
  refuseZero(complain, `${field}.refill_time`, refill_time, '0 milliseconds are no limit at all');
  checkCount(complain, `${field}.size`, size, { min: 1, max: MAX_TOKENS, unit });
  checkCount(complain, `${field}.refill_time`, refill_time, { min: 1, max: MAX_REFILL_MS, unit: 'milliseconds' });
  if (one_time_burst === undefined) return;
  checkCount(complain, `${field}.one_time_burst`, one_time_burst, { min: 0, max: MAX_TOKENS, unit });
}

function refuseZero(complain: Complain, field: string, value: number, problem: string): void {
  if (value !== 0) return;
  complain(field, value, { code: 'OUT_OF_RANGE', problem, mend: 'Use at least 1, or leave the limit out.' });
}
