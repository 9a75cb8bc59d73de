// What tabs and those who hold a connection for them say to each other, and what makes two streams the same connection.

import { CONNECT_TIMEOUT, later, link, type Hooks, type Source } from "./link.js";
import type { Fault, LinkOptions, Options, SidestreamEvent, Status } from "./types.js";

/** What a shared connection takes: what can be said to another tab or to a worker. */
export interface SharedOptions extends Omit<Options, "transport" | "headers"> {
  /** More request headers. Default: none. */
  headers?: Record<string, string>;
  /** For whom the connection is: streams with different keys never share one. Not empty. */
  key: string;
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
  /**
   * The first for a tab: what it would know if it had been there. `lock`: of a holder whose end nobody would notice
   * otherwise, who has it for life.
   */
  | {
      readonly type: "welcome";
      readonly status: Status;
      readonly kept: readonly SidestreamEvent[];
      readonly lock?: string;
    };

/** Names of events that are kept; those beyond, the longest unheard, are forgotten. */
const NAMES = 1_000;

/** The server's own events that tell what is so until the connection ends. */
const HOLDING = ["sidestream.connected", "sidestream.degraded", "sidestream.synced"];

/** What may be shared of what a page asks for. Throws a TypeError where the URL is none, or the key, or headers. */
export function shared(url: string | URL, options: SharedOptions): Shared {
  const { href } = new URL(url, globalThis.location?.href);
  // Who the user is cannot be seen from here, and nobody must hear what is another's.
  if (typeof options.key !== "string" || !options.key) throw new TypeError("a shared connection needs a key");
  if (typeof options.headers === "function") throw new TypeError("headers of a shared connection must be an object");
  const { headers, credentials, lastEventId, subjects, backoff, maxRetries, heartbeatTimeout, connectTimeout } =
    options;
  const all = { headers, credentials, lastEventId, subjects, backoff, maxRetries, heartbeatTimeout, connectTimeout };
  const given = Object.fromEntries(Object.entries(all).filter(([, value]) => value !== undefined)) as LinkOptions;
  // JSON has no Infinity: it would be as good as absent, which it is by default.
  const key = JSON.stringify([href, options.key, given]);
  return { key, url: href, options: { ...given, transport: "fetch" } };
}

/** What a tab that comes late is told: the last event of each name, and how the connection stands. */
export class Kept {
  readonly #events = new Map<string, SidestreamEvent>();
  #status: Status;
  // The present one: that of the status is as old as the status.
  #lastEventId: string;

  constructor(lastEventId = "") {
    this.#status = { state: "connecting", attempt: 0, lastEventId };
    this.#lastEventId = lastEventId;
  }

  /**
   * Keeps what is told. Of the server's own events, those that still hold: that the stream is open, that NATS is away,
   * and that the last values have been sent.
   */
  take(news: News): void {
    if (news.type === "status") this.#state(news.status);
    else if (news.type === "event") {
      this.#lastEventId = news.event.lastEventId;
      this.#event(news.event);
    } else if (news.type === "welcome") {
      this.#state(news.status);
      for (const event of news.kept) this.#event(event);
    }
  }

  #state(status: Status): void {
    this.#status = status;
    this.#lastEventId = status.lastEventId;
    if (status.state === "open") return;
    for (const name of HOLDING) this.#events.delete(name);
  }

  #event(event: SidestreamEvent): void {
    const { name } = event;
    if (name === "sidestream.ok") this.#events.delete("sidestream.degraded");
    if (name.startsWith("sidestream.") && !HOLDING.includes(name)) return;
    this.#events.delete(name);
    this.#events.set(name, event);
    if (this.#events.size > NAMES) for (const [oldest] of this.#events) return void this.#events.delete(oldest);
  }

  /** For a tab that comes now. */
  welcome(): Extract<News, { type: "welcome" }> {
    // After all values there are.
    const last = (event: SidestreamEvent): number => +(event.name === "sidestream.synced");
    const kept = [...this.#events.values()].map((event) => ({ ...event, cached: true as const }));
    kept.sort((a, b) => last(a) - last(b));
    return { type: "welcome", status: { ...this.#status, lastEventId: this.#lastEventId }, kept };
  }
}

/** The same connection, from another position on. */
export function at(shared: Shared, lastEventId: string): Shared {
  return { ...shared, options: { ...shared.options, lastEventId } };
}

/** What a page is told when nobody answers that it has come. */
export const UNANSWERED: Fault = { type: "connection", reason: { type: "timeout" }, final: false };

/** Calls when nobody has answered for as long as an attempt to connect may take. */
export function patience({ options }: Shared, over: () => void): ReturnType<typeof setTimeout> {
  return later(over, options.connectTimeout ?? CONNECT_TIMEOUT);
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
