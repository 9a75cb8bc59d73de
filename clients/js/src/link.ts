// The state machine of one connection that is kept: connecting, open, waiting, closed. It counts attempts, watches
// heartbeats and the network, and keeps the last event ID. Transports make the attempts; handlers and parsing are
// left to others.

import { delay } from "./backoff.js";
import { byEventSource } from "./eventsource.js";
import { byFetch } from "./fetch.js";
import type { Attempt, Outcome, Sink, Transport } from "./transport.js";
import type { Bye, Connected, Fault, LinkOptions, Reason, SidestreamEvent, Status } from "./types.js";

/** What comes of a connection. None of these may throw. */
export interface Hooks {
  event(event: SidestreamEvent): void;
  status(status: Status): void;
  fault(fault: Fault): void;
}

/** Where events come from: a connection of this page's own, or one that it shares. */
export interface Source {
  /** The last event ID. */
  readonly lastEventId: string;
  /** Events of this name are wanted. */
  hear(name: string): void;
  /** Ends it, for good; the status says so before this returns. */
  close(): void;
}

/** The server's own names, which are always heard. */
const OWN = ["connected", "heartbeat", "gap", "bye", "degraded", "ok", "synced"].map((name) => `sidestream.${name}`);

/** Milliseconds that an attempt may take, where the page says nothing of it. */
export const CONNECT_TIMEOUT = 30_000;

type Timer = ReturnType<typeof setTimeout>;

const now = (): number => performance.now();

/** Calls after so many milliseconds, or when a timer can wait no longer. */
export function later(run: () => void, wait: number): Timer {
  return setTimeout(run, Math.min(wait, 2 ** 31 - 1));
}

function transportOf({ transport, headers, credentials }: LinkOptions): Transport {
  const needed = headers || credentials === "omit" || !globalThis.EventSource;
  if (transport === "eventsource" && needed) {
    throw new TypeError("fetch transport needed");
  }
  return needed || transport === "fetch" ? byFetch : byEventSource;
}

/** Data of our own events; nothing where they are not what they should be. */
function own<T>(data: string): Partial<T> {
  try {
    return Object(JSON.parse(data)) as Partial<T>;
  } catch {
    return {};
  }
}

/** Opens a connection and keeps it. Throws a TypeError where the URL or the options cannot be. */
export function link(url: string | URL, options: LinkOptions, hooks: Hooks): Source {
  const target = new URL(url, globalThis.location?.href);
  const { backoff = {}, maxRetries = Infinity, heartbeatTimeout = 2.5, connectTimeout = CONNECT_TIMEOUT } = options;
  const transport = transportOf(options);
  const listening = new AbortController();
  const names = new Set(["message", ...OWN]);
  let state: Status["state"] = "connecting";
  let lastEventId = options.lastEventId ?? "";
  let failed = 0;
  // Milliseconds: what `retry` says until it says otherwise, and the time before which the server wants to see nobody.
  let retry = 0;
  let until = 0;
  let bye: Reason | undefined;
  // Milliseconds without a sign of life that mean that an open connection is dead. 0: not known, or not wanted.
  let silence = 0;
  let opened = 0;
  let heard = 0;
  let attempt: Attempt | undefined;
  let timer: Timer | undefined;
  let watchdog: Timer | undefined;

  for (const subject of options.subjects ?? []) target.searchParams.append("subject", subject);

  const set = (next: Status["state"], more?: Pick<Status, "connection" | "reason">): void => {
    state = next;
    hooks.status({ state, attempt: failed, lastEventId, ...more });
  };

  const stop = (): void => {
    attempt?.cancel();
    attempt = undefined;
    clearTimeout(timer);
    clearTimeout(watchdog);
  };

  const watch = (): void => {
    clearTimeout(watchdog);
    if (state === "closed") return;
    const limit = state === "open" ? silence || Infinity : Math.max(connectTimeout, silence);
    const left = heard + limit - now();
    if (left > 0) watchdog = later(watch, left);
    else ended({ reason: { type: "timeout" } });
  };

  const finish = (reason: Reason): void => {
    stop();
    listening.abort();
    set("closed", { reason });
  };

  // Counts a failure; says whether there may be another attempt.
  const failure = ({ reason, final = false }: Outcome): boolean => {
    if (state === "open" && now() - opened >= (backoff.stable ?? 5_000)) failed = 0;
    failed += 1;
    const over = final || failed > maxRetries;
    const why = bye ?? reason;
    const last: Reason = over && !final ? { type: "retries", last: why } : why;
    bye = undefined;
    // Before the status: nothing is told after the end.
    hooks.fault({ type: "connection", reason: last, final: over });
    if (state === "closed") return false;
    if (over) finish(last);
    else set("waiting", { reason: last });
    return state === "waiting";
  };

  // After so many milliseconds more than the server asked for.
  const again = (wait: number): void => {
    stop();
    timer = later(start, wait + Math.max(0, until - now()));
  };

  const ended = (outcome: Outcome): void => {
    stop();
    until = Math.max(until, now() + (outcome.after ?? retry));
    if (failure(outcome)) again(delay(backoff, failed));
  };

  const open = (connection?: string): void => {
    opened = heard;
    set("open", { connection });
    watch();
  };

  const sink: Sink = {
    event(name, data, id) {
      lastEventId = id;
      if (data === undefined) return;
      heard = now();
      if (name === "sidestream.connected") {
        const { connection, heartbeat } = own<Connected>(data);
        if (heartbeat) silence = heartbeat * 1000 * heartbeatTimeout;
        open(connection);
      } else if (state !== "open") {
        open();
      }
      if (name === "sidestream.bye") {
        const { code, reconnect } = own<Bye>(data);
        bye = { type: "bye", code: String(code) };
        until = heard + (reconnect || 0);
      }
      // Who hears of the status may have closed it.
      if (state === "open") hooks.event({ name, data, lastEventId });
    },
    retry(milliseconds) {
      retry = milliseconds;
    },
    heard() {
      // An attempt has its time until an event, whatever else comes.
      if (state === "open") heard = now();
    },
    paused(outcome) {
      // The browser waits as long as it was told, and nothing can be heard before.
      heard = Math.max(until, now());
      if (failure(outcome)) watch();
    },
    ended,
  };

  const start = (): void => {
    stop();
    if (state !== "connecting") set("connecting");
    // A listener of the status may have closed it, and then it stays so.
    if (state !== "connecting") return;
    heard = now();
    attempt = transport({ url: new URL(target), lastEventId, options, names }, sink);
    watch();
  };

  const offline = (): void => {
    stop();
    bye = undefined;
    set("waiting", { reason: { type: "offline" } });
  };

  const online = (): void => {
    if (state === "waiting") again(0);
  };

  globalThis.addEventListener?.("offline", offline, listening);
  globalThis.addEventListener?.("online", online, listening);
  start();
  return {
    get lastEventId() {
      return lastEventId;
    },
    hear(name) {
      if (names.has(name)) return;
      names.add(name);
      attempt?.hear(name);
    },
    close() {
      if (state !== "closed") finish({ type: "closed" });
    },
  };
}
