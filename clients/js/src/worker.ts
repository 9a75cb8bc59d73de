// The client with one connection for all tabs of an origin: a SharedWorker holds it, or else the tab that leads, or
// else each tab its own.

import { overChannel } from "./channel.js";
import { face } from "./face.js";
import { link, type Hooks, type Source } from "./link.js";
import { overPort } from "./port.js";
import { shared, type SharedOptions } from "./shared.js";
import type { Stream } from "./types.js";

export type { SharedOptions } from "./shared.js";
export type * from "./types.js";

/** The words are those that bundlers know: they put the worker's script where the page can have it. */
function start(): SharedWorker {
  return new SharedWorker(new URL("./shared-worker.js", import.meta.url), { type: "module", name: "sidestream-1" });
}

/** The best way that this browser has, and this page may use. */
function source(url: string | URL, options: SharedOptions, hooks: Hooks): Source {
  const connection = shared(url, options);
  // Locks say which tabs live: without them (pages that are not secure) nobody can hold anything for others.
  if (!globalThis.navigator?.locks) return link(url, connection.options, hooks);
  const elect = (): Source =>
    "BroadcastChannel" in globalThis ? overChannel(connection, hooks) : link(url, connection.options, hooks);
  if (!("SharedWorker" in globalThis)) return elect();
  try {
    const worker = (options.worker ?? start)();
    let current = overPort(worker, connection, hooks, () => (current = elect()));
    return {
      get lastEventId() {
        return current.lastEventId;
      },
      hear() {},
      close: () => current.close(),
    };
  } catch {
    // A script of another origin, or a policy of the page's.
    return elect();
  }
}

/**
 * Opens a stream as `connect` of `@sidestream/client` does, on one connection for all tabs that ask for the same.
 *
 * A tab that comes late gets the last event of each name first, marked `cached`. Always by `fetch`.
 */
export function connect<E extends object = Record<string, unknown>>(
  url: string | URL,
  options: SharedOptions = {},
): Stream<E> {
  return face<E>(options as object, (hooks) => source(url, options, hooks));
}
