// How long to wait before the next attempt: exponential, full jitter, a cap, and what the server asked for as the
// least.

import type { LinkOptions } from "./types.js";

/** Milliseconds before an attempt, after so many that failed in a row. `told` is the server's wish. */
export function delay(
  { min = 500, max = 30_000 }: NonNullable<LinkOptions["backoff"]>,
  failed: number,
  told: number,
): number {
  return Math.max(told, Math.random() * Math.min(max, min * 2 ** (failed - 1)));
}
