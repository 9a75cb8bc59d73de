// What a page holds: handlers by name, the last event of each, the status and who watches it. Where events come from
// is left to a source.

import type { Hooks, Source } from "./link.js";
import type { Fault, Last, Options, SidestreamEvent, Status, Stream } from "./types.js";

type Handler = (data: unknown, event: SidestreamEvent) => void;

/** Functions that are called one after the other; each may come and go at any time. */
class Calls<F> {
  readonly #entries = new Set<{ call: F }>();

  /** Adds one, and gives what removes it. */
  add(call: F): () => void {
    const entry = { call };
    this.#entries.add(entry);
    return () => void this.#entries.delete(entry);
  }

  /** Those that are there now and still when their turn comes. */
  each(run: (call: F) => void): void {
    for (const entry of [...this.#entries]) if (this.#entries.has(entry)) run(entry.call);
  }
}

/** What the data of an event are to its handlers. May throw what the page's own parser throws. */
function parsed(event: SidestreamEvent, parse: Options["parse"] = "json"): unknown {
  if (parse === "json" || event.name.startsWith("sidestream.")) return JSON.parse(event.data);
  return parse === "text" ? event.data : parse(event);
}

/** A stream upon the source that `begin` gives. `connecting` is the status until the source tells another. */
export function face<E extends object>(options: Options, begin: (hooks: Hooks) => Source): Stream<E> {
  const handlers = new Map<string, Calls<Handler>>();
  const last = new Map<string, Last<unknown>>();
  const listeners = new Calls<() => void>();
  let status: Status = { state: "connecting", attempt: 0, lastEventId: options.lastEventId ?? "" };

  const fault = (fault: Fault): void => {
    try {
      if (options.onError) options.onError(fault);
      else if ("error" in fault) throw fault.error;
    } catch (error) {
      (globalThis.reportError ?? console.error)(error);
    }
  };
  // Runs what the page wrote, which may throw; with an event, it is that one's data that are at fault.
  const guarded = <T>(run: () => T, event?: SidestreamEvent): T | undefined => {
    try {
      return run();
    } catch (error) {
      fault(event ? { type: "parse", error, event } : { type: "handler", error });
      return undefined;
    }
  };

  const { signal } = options;
  signal?.throwIfAborted();
  const open = (): boolean => status.state !== "closed";
  const source = begin({
    event(event) {
      // After the end nothing is told, be it on its way.
      const calls = open() && handlers.get(event.name);
      const value = calls && guarded(() => ({ data: parsed(event, options.parse), event }), event);
      if (!value) return;
      last.set(event.name, value);
      calls.each((handler) => open() && guarded(() => handler(value.data, event)));
    },
    status(next) {
      status = next;
      if (next.state === "closed") signal?.removeEventListener("abort", close);
      guarded(() => options.onState?.(next));
      listeners.each((listener) => guarded(listener));
    },
    fault,
  });
  const close = (): void => source.close();
  signal?.addEventListener("abort", close);
  // A callback may have aborted it meanwhile.
  if (signal?.aborted) close();

  const on = (name: string, handler: Handler): (() => void) => {
    let calls = handlers.get(name);
    if (!calls) handlers.set(name, (calls = new Calls()));
    source.hear(name);
    return calls.add(handler);
  };
  const callback = (name: string, handler: ((data: never) => void) | undefined): void => {
    if (handler) on(`sidestream.${name}`, handler as () => void);
  };
  callback("connected", options.onOpen);
  callback("gap", options.onGap);
  callback("bye", options.onBye);
  callback("degraded", options.onDegraded);
  callback("ok", options.onOk);
  callback("synced", options.onSynced);

  return {
    on: on as Stream<E>["on"],
    last: (name: string) => last.get(name) as Last<never> | undefined,
    subscribe: (listener) => listeners.add(listener),
    get status() {
      return status;
    },
    get lastEventId() {
      return source.lastEventId;
    },
    close,
  };
}
