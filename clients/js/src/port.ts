// A tab's side of a connection that a SharedWorker holds.

import type { Hooks, Source } from "./link.js";
import { holdLock, pass, type News, type Shared } from "./shared.js";
import type { Order } from "./shared-worker.js";

/** Joins a connection. `failed` is called, and nothing else any more, where the worker does not run. */
export function overPort(worker: SharedWorker, shared: Shared, hooks: Hooks, failed: () => void): Source {
  const { port } = worker;
  const say = (order: Order): void => port.postMessage(order);
  const listening = new AbortController();
  let lastEventId = shared.options.lastEventId ?? "";
  let joined = false;
  let over = false;
  let release: (() => void) | undefined;

  const end = (): void => {
    over = true;
    listening.abort();
    worker.onerror = port.onmessage = null;
    // The worker gets the lock, if it did not get the word.
    release?.();
  };

  for (const type of ["offline", "online"] as const) globalThis.addEventListener(type, () => say({ type }), listening);
  worker.onerror = (): void => {
    if (joined || over) return;
    end();
    failed();
  };
  port.onmessage = ({ data }: MessageEvent<News>): void => {
    joined = true;
    if (data.type === "event") ({ lastEventId } = data.event);
    else if (data.type !== "fault") {
      ({ lastEventId } = data.status);
      if (data.status.state === "closed") end();
    }
    pass(data, hooks);
  };

  const join = async (): Promise<void> => {
    const lock = `sidestream tab ${crypto.randomUUID()}`;
    release = await holdLock(lock);
    if (over) release();
    else say({ type: "join", shared, lock });
  };
  void join();

  return {
    get lastEventId() {
      return lastEventId;
    },
    hear() {},
    close() {
      if (over) return;
      say({ type: "leave" });
      end();
      hooks.status({ state: "closed", attempt: 0, lastEventId, reason: { type: "closed" } });
    },
  };
}
