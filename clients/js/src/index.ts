// The client: one stream of a sidestream sidecar, by EventSource or by fetch.

import { face } from "./face.js";
import { link } from "./link.js";
import type { Options, Stream } from "./types.js";

export type * from "./types.js";

/**
 * Opens a stream at once and keeps it until it is closed, or refused for good.
 *
 * `url` may be relative to the page. `E` maps the names of events to what their data are. Throws only for what can
 * never work: a URL that is none, options that exclude each other, a signal that has aborted.
 */
export function connect<E extends object = Record<string, unknown>>(
  url: string | URL,
  options: Options = {},
): Stream<E> {
  return face<E>(options, (hooks) => link(url, options, hooks));
}
