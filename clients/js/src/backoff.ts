// How long to wait before the next attempt, on top of what the server asked for, which it may have asked of many:
// exponential, full jitter, a cap.

import type { LinkOptions } from "./types.js";

/** Milliseconds before an attempt, after so many that failed in a row. */
export function delay(
  { min = 500, max = 30_000 }: NonNullable<LinkOptions["backoff"]>,
  failed: number,
): number {
  return Math.random() * Math.min(max, min * 2 ** (failed - 1));
}
