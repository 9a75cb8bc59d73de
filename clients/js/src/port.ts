// A tab's side of a connection that a SharedWorker holds.

import type { Hooks, Source } from "./link.js";
import { holdLock, pass, patience, UNANSWERED, type News, type Shared } from "./shared.js";
import type { Order } from "./shared-worker.js";

/** How it may end without the page's doing. Nothing else is told any more then. */
export interface Endings {
  /** The worker does not run, or does not answer. */
  failed(): void;
  /** This page may hold no locks, or what it asks for cannot be said to a worker. */
  refused(): void;
  /** The worker is gone, with the connection; this is how far the tab has heard it. */
  lost(lastEventId: string): void;
}

/** Joins a connection. `from`: where the tab stood when the worker before this one ended; empty if there was none. */
export function overPort(worker: SharedWorker, shared: Shared, from: string, hooks: Hooks, endings: Endings): Source {
  const { port } = worker;
  const say = (order: Order): void => port.postMessage(order);
  const listening = new AbortController();
  let lastEventId = from || (shared.options.lastEventId ?? "");
  let joined = false;
  let over = false;
  let release: (() => void) | undefined;

  const end = (): void => {
    over = true;
    clearTimeout(unanswered);
    listening.abort();
    worker.onerror = port.onmessage = null;
    // The worker gets the lock, if it did not get the word.
    release?.();
  };

  const leave = (): void => {
    say({ type: "leave" });
    end();
  };

  const unanswered = patience(shared, () => {
    leave();
    hooks.fault(UNANSWERED);
    endings.failed();
  });

  // Whoever gets the worker's lock knows that it is gone. Shared: a tab that sleeps must not keep the others waiting.
  const watch = async (lock: string): Promise<void> => {
    const { signal } = listening;
    await navigator.locks.request(lock, { mode: "shared", signal }, () => {});
    if (over) return;
    end();
    endings.lost(lastEventId);
  };

  for (const type of ["offline", "online"] as const) globalThis.addEventListener(type, () => say({ type }), listening);
  worker.onerror = (): void => {
    if (joined || over) return;
    end();
    endings.failed();
  };
  port.onmessage = ({ data }: MessageEvent<News>): void => {
    joined = true;
    clearTimeout(unanswered);
    if (data.type === "event") ({ lastEventId } = data.event);
    else if (data.type !== "fault") {
      ({ lastEventId } = data.status);
      if (data.status.state === "closed") end();
      // Aborted by the end of this stream, and by nothing else.
      else if (data.type === "welcome" && data.lock) watch(data.lock).catch(() => {});
    }
    pass(data, hooks);
  };

  const join = async (): Promise<void> => {
    const lock = `sidestream tab ${crypto.randomUUID()}`;
    release = await holdLock(lock);
    if (over) release();
    else say({ type: "join", shared, lock, from });
  };
  join().catch(() => {
    if (over) return;
    end();
    endings.refused();
  });

  return {
    get lastEventId() {
      return lastEventId;
    },
    hear() {},
    close() {
      if (over) return;
      leave();
      hooks.status({ state: "closed", attempt: 0, lastEventId, reason: { type: "closed" } });
    },
  };
}
