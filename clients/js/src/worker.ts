// The client with one connection for all tabs of an origin: a SharedWorker holds it, or else the tab that leads, or
// else each tab its own.

import { delay } from "./backoff.js";
import { overChannel } from "./channel.js";
import { face } from "./face.js";
import { later, link, type Hooks, type Source } from "./link.js";
import { overPort } from "./port.js";
import { at, shared, type Shared, type SharedOptions } from "./shared.js";
import type { Status, Stream } from "./types.js";

export type { SharedOptions } from "./shared.js";
export type * from "./types.js";

/** The words are those that bundlers know: they put the worker's script where the page can have it. */
function start(): SharedWorker {
  return new SharedWorker(new URL("./shared-worker.js", import.meta.url), { type: "module", name: "sidestream-1" });
}

/** A connection of this tab's own. */
function own({ url, options }: Shared, hooks: Hooks): Source {
  return link(url, options, hooks);
}

/** The best way that this browser has, and this page may use. */
function source(url: string | URL, options: SharedOptions, hooks: Hooks): Source {
  const connection = shared(url, options);
  // Locks say which tabs live: without them (pages that are not secure) nobody can hold anything for others.
  if (!globalThis.navigator?.locks) return own(connection, hooks);
  let current: Source;
  let lost = 0;

  const alone = (from: string): void => {
    current = own(from ? at(connection, from) : connection, hooks);
  };
  const elect = (): void => {
    if ("BroadcastChannel" in globalThis) current = overChannel(connection, hooks, () => alone(""));
    else alone("");
  };
  // A leader does not know what a tab that was elsewhere before has missed.
  const fail = (from: string): void => (from ? alone(from) : elect());
  const join = (from: string): void => {
    let worker: SharedWorker;
    try {
      worker = (options.worker ?? start)();
    } catch {
      // A script of another origin, or a policy of the page's.
      return fail(from);
    }
    current = overPort(worker, connection, from, hooks, {
      failed: () => fail(from),
      refused: () => alone(from),
      lost: wait,
    });
  };
  // All its tabs are told at once: each comes to the next worker in its own time, and the later for each in a row.
  const wait = (lastEventId: string): void => {
    const attempt = (lost += 1);
    const reason = { type: "network", message: "the shared worker has ended" } as const;
    const timer = later(() => join(lastEventId), delay(options.backoff ?? {}, attempt));
    let closed = false;
    const tell = (state: Status["state"], reason: Status["reason"]): void =>
      hooks.status({ state, attempt, lastEventId, reason });
    current = {
      lastEventId,
      hear() {},
      close() {
        if (closed) return;
        closed = true;
        clearTimeout(timer);
        tell("closed", { type: "closed" });
      },
    };
    hooks.fault({ type: "connection", reason, final: false });
    if (!closed) tell("waiting", reason);
  };

  const { event } = hooks;
  hooks = {
    ...hooks,
    event(news) {
      lost = 0;
      event(news);
    },
  };
  if ("SharedWorker" in globalThis) join("");
  else elect();
  return {
    get lastEventId() {
      return current.lastEventId;
    },
    hear() {},
    close: () => current.close(),
  };
}

/**
 * Opens a stream as `connect` of `@sidestream/client` does, on one connection for all tabs that ask for the same.
 *
 * A tab that comes late gets the last event of each name first, marked `cached`. Always by `fetch`. Throws a TypeError
 * also where `key` is missing or empty, and where `headers` are a function.
 */
export function connect<E extends object = Record<string, unknown>>(
  url: string | URL,
  options: SharedOptions,
): Stream<E> {
  return face<E>(options as object, (hooks) => source(url, options, hooks));
}
