// What tabs and those who hold a connection for them say to each other, and what makes two streams the same connection.

import { link, type Hooks, type Source } from "./link.js";
import type { Fault, LinkOptions, Options, SidestreamEvent, Status } from "./types.js";

/** What a shared connection takes: what can be said to another tab or to a worker. */
export interface SharedOptions extends Omit<Options, "transport" | "headers"> {
  /** More request headers. Default: none. */
  headers?: Record<string, string>;
  /** For whom the connection is: streams with different keys never share one. Default: empty. */
  key?: string;
  /** Starts the worker, where the page serves it elsewhere: `shared-worker.js` of this package, as a module. */
  worker?: () => SharedWorker;
}

/** A connection as it can be named to others. */
export interface Shared {
  /** Equal for streams that share. */
  readonly key: string;
  readonly url: string;
  readonly options: LinkOptions;
}

/** What the holder of a connection tells the tabs. */
export type News =
  | { readonly type: "event"; readonly event: SidestreamEvent }
  | { readonly type: "status"; readonly status: Status }
  | { readonly type: "fault"; readonly fault: Fault }
  /** The first for a tab: what it would know if it had been there. */
  | { readonly type: "welcome"; readonly status: Status; readonly kept: readonly SidestreamEvent[] };

/** Names of events that are kept; those beyond, the longest unheard, are forgotten. */
const NAMES = 1_000;

/** What may be shared of what a page asks for. Throws a TypeError where the URL is none. */
export function shared(url: string | URL, options: SharedOptions): Shared {
  const { href } = new URL(url, globalThis.location?.href);
  const { headers, credentials, lastEventId, subjects, backoff, maxRetries, heartbeatTimeout, connectTimeout } =
    options;
  const all = { headers, credentials, lastEventId, subjects, backoff, maxRetries, heartbeatTimeout, connectTimeout };
  const given = Object.fromEntries(Object.entries(all).filter(([, value]) => value !== undefined)) as LinkOptions;
  // JSON has no Infinity: it would be as good as absent, which it is by default.
  const key = JSON.stringify([href, options.key ?? "", given]);
  return { key, url: href, options: { ...given, transport: "fetch" } };
}

/** What a tab that comes late is told: the last event of each name, and how the connection stands. */
export class Kept {
  readonly #events = new Map<string, SidestreamEvent>();
  #status: Status;

  constructor(lastEventId = "") {
    this.#status = { state: "connecting", attempt: 0, lastEventId };
  }

  /**
   * Keeps what is told. Of the server's own events, those that still hold: that the stream is open, and that NATS is
   * away.
   */
  take(news: News): void {
    if (news.type === "status") this.#state(news.status);
    else if (news.type === "event") this.#event(news.event);
    else if (news.type === "welcome") {
      this.#state(news.status);
      for (const event of news.kept) this.#event(event);
    }
  }

  #state(status: Status): void {
    this.#status = status;
    if (status.state === "open") return;
    this.#events.delete("sidestream.connected");
    this.#events.delete("sidestream.degraded");
  }

  #event(event: SidestreamEvent): void {
    const { name } = event;
    if (name === "sidestream.ok") this.#events.delete("sidestream.degraded");
    if (name.startsWith("sidestream.") && name !== "sidestream.connected" && name !== "sidestream.degraded") return;
    this.#events.delete(name);
    this.#events.set(name, event);
    if (this.#events.size > NAMES) for (const [oldest] of this.#events) return void this.#events.delete(oldest);
  }

  /** For a tab that comes now. */
  welcome(): News {
    const kept = [...this.#events.values()].map((event) => ({ ...event, cached: true as const }));
    return { type: "welcome", status: this.#status, kept };
  }
}

/** Holds a connection, and tells of it. */
export function hold({ url, options }: Shared, tell: (news: News) => void): Source {
  return link(url, options, {
    event: (event) => tell({ type: "event", event }),
    status: (status) => tell({ type: "status", status }),
    fault: (fault) => tell({ type: "fault", fault }),
  });
}

/** Passes news on to a page. */
export function pass(news: News, hooks: Hooks): void {
  if (news.type === "event") hooks.event(news.event);
  else if (news.type === "fault") hooks.fault(news.fault);
  else {
    hooks.status(news.status);
    if (news.type === "welcome") for (const event of news.kept) hooks.event(event);
  }
}

/**
 * Waits for a Web Lock, unless the signal aborts, and holds it until the function that it gives is called, or this
 * tab is no more.
 */
export async function holdLock(name: string, signal?: AbortSignal): Promise<() => void> {
  return new Promise((held, failed) => {
    const hold = (): Promise<void> => new Promise((release) => held(release));
    navigator.locks.request(name, signal ? { signal } : {}, hold).catch(failed);
  });
}
