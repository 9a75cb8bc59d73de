// What a page says to the client and hears from it: options, events, reasons, status. Types only, nothing runs here.

/** One event as it came, before its data are parsed. */
export interface SidestreamEvent {
  /** The event's name; `message` where the server gave none. */
  readonly name: string;
  /** The data, lines joined by LF. */
  readonly data: string;
  /** The last event ID after this event. An event without an `id:` of its own repeats the one before. */
  readonly lastEventId: string;
  /** Shared connections only: kept from before this tab came, and given to it when it joined. */
  readonly cached?: true;
}

/** `sidestream.connected`: a stream begins. */
export interface Connected {
  /** Names the connection in logs and for `sidestream kick`. */
  connection: string;
  /** `new`: no cursor was sent. `exact`: everything after it follows. `gap`: a `sidestream.gap` follows. */
  resume: "new" | "exact" | "gap";
  /** Seconds between heartbeats. */
  heartbeat: number;
}

/** `sidestream.gap`: events are missing here; what the page shows should be loaded anew. */
export interface Gap {
  /** The NATS stream; `null` for core subjects. */
  stream: string | null;
  /** The last sequence before the gap, where it is known. */
  after: number | null;
  /** The first sequence behind the gap, where it is known. */
  next: number | null;
  /** Why; servers to come may name others. */
  reason:
    | "retention"
    | "purged"
    | "reset"
    | "cursor_unknown"
    | "replay_limit"
    | "oversize"
    | "undecodable"
    | "upstream"
    | (string & {});
}

/** `sidestream.bye`: the server ends this connection; the client comes back by itself. */
export interface Bye {
  /** Why; servers to come may name others. */
  code: "drain" | "age" | "expired" | "kicked" | "slow" | "limit" | (string & {});
  /** When to come back, in milliseconds. */
  reconnect: number;
}

/** The server's own events, which handlers get by naming them. */
export interface ServerEvents {
  "sidestream.connected": Connected;
  "sidestream.heartbeat": { time: number };
  "sidestream.gap": Gap;
  "sidestream.bye": Bye;
  "sidestream.degraded": Record<string, never>;
  "sidestream.ok": Record<string, never>;
  "sidestream.synced": Record<string, never>;
}

/** Why a connection ended, or was not made. */
export type Reason =
  /** `close()` was called, or the signal aborted. */
  | { readonly type: "closed" }
  /**
   * The server said no. Status 200: softly, with `Sidestream-Refused`. `code` is the server's own word for it, empty
   * where it gave none.
   */
  | { readonly type: "refused"; readonly status: number; readonly code: string }
  /** 200, and not an event stream: a page of a proxy or of a login. */
  | { readonly type: "content-type"; readonly contentType: string }
  /** As many attempts failed as `maxRetries` allows; `last` is why the last did. */
  | { readonly type: "retries"; readonly last: Reason }
  /** The server said goodbye. */
  | { readonly type: "bye"; readonly code: string }
  /** The answer ended without a goodbye. */
  | { readonly type: "ended" }
  /** No answer, or it broke off. `message` is the browser's, empty where it gives none. */
  | { readonly type: "network"; readonly message: string }
  /** Nothing was heard for so long that the connection must be dead. */
  | { readonly type: "timeout" }
  /** The browser says that there is no network. */
  | { readonly type: "offline" };

/** Where a stream stands. A new object at every change, the same one until then. */
export interface Status {
  /** `waiting`: for the next attempt, or for the network. `closed`: for good. */
  readonly state: "connecting" | "open" | "waiting" | "closed";
  /** Attempts in a row that failed, or did not hold for `backoff.stable`; what is `open` counts when it ends. */
  readonly attempt: number;
  /** The last event ID at this change; `stream.lastEventId` is the present one. */
  readonly lastEventId: string;
  /** The server's name for the connection, while `open`. */
  readonly connection?: string | undefined;
  /** Why it is `waiting` or `closed`. */
  readonly reason?: Reason | undefined;
}

/** What went wrong. None of it is thrown. */
export type Fault =
  /** A connection ended or was not made; `final`: and no other will be. */
  | { readonly type: "connection"; readonly reason: Reason; readonly final: boolean }
  /** The data of an event could not be parsed; its handlers did not get it, and the stream goes on. */
  | { readonly type: "parse"; readonly error: unknown; readonly event: SidestreamEvent }
  /** A handler, a listener or a callback threw; the others were called all the same. */
  | { readonly type: "handler"; readonly error: unknown };

/** How a connection is made and kept. */
export interface LinkOptions {
  /**
   * `eventsource`: the browser's own. `fetch`: needed for headers; it sees status codes and hears every name.
   * Default: `eventsource`, or `fetch` where there are headers, where credentials are `omit`, or where there is no
   * EventSource.
   */
  transport?: "eventsource" | "fetch";
  /** More request headers, or what gives them before each attempt. `fetch` only. Default: none. */
  headers?: Record<string, string> | (() => Record<string, string> | Promise<Record<string, string>>);
  /** Whose cookies are sent, as for `fetch`. Default: `same-origin`. */
  credentials?: "omit" | "same-origin" | "include";
  /** Where to go on from. Default: from now on. */
  lastEventId?: string;
  /** Narrows the stream to these subjects (routes with `select`). Default: everything granted. */
  subjects?: readonly string[];
  /**
   * Milliseconds. The wait before attempt n is what the server asked for, and on top of that random between 0 and
   * `min * 2^(n-1)`, at most `max`; n begins anew after a connection that held for `stable`. Default: 500, 30000, 5000.
   */
  backoff?: { min?: number; max?: number; stable?: number };
  /** Attempts in a row that may fail after the first. Default: Infinity. */
  maxRetries?: number;
  /**
   * Silence that means that a connection is dead, in heartbeats as the server told their interval. 0: never. Default:
   * 2.5.
   */
  heartbeatTimeout?: number;
  /**
   * How long an attempt may take to its first event, in milliseconds, and not less than the silence allowed; shared
   * connections: also how long whoever holds one may take to answer. Default: 30000.
   */
  connectTimeout?: number;
}

/** All that `connect` takes. */
export interface Options extends LinkOptions {
  /** How data become what handlers get; the server's own events are always JSON. Default: `json`. */
  parse?: "json" | "text" | ((event: SidestreamEvent) => unknown);
  /** Closes the stream. */
  signal?: AbortSignal;
  /** A connection begins. */
  onOpen?: (connected: Connected) => void;
  /** Something went wrong. Without it, what handlers throw and what cannot be parsed goes to `reportError`. */
  onError?: (fault: Fault) => void;
  /** Events are missing. */
  onGap?: (gap: Gap) => void;
  /** The server ends this connection. */
  onBye?: (bye: Bye) => void;
  /** The server lost NATS: events are late. */
  onDegraded?: () => void;
  /** NATS is back. */
  onOk?: () => void;
  /** The last value of each subject has been sent (routes with `last_value`). */
  onSynced?: () => void;
  /** The status changed, from the `connecting` with which it begins. */
  onState?: (status: Status) => void;
}

/** The events of a stream, by name: the page's own and the server's. */
export type Named<E> = Omit<E, keyof ServerEvents> & ServerEvents;

/** A stream that has been opened. Its functions need no `this`. */
export interface Stream<E extends object = Record<string, unknown>> {
  /**
   * Calls the handler for each event of this name, until the function that it returns is called. The same handler
   * added twice is called twice. One added while an event is handled gets the next; one removed meanwhile gets
   * nothing more.
   */
  on<K extends keyof Named<E> & string>(
    name: K,
    handler: (data: Named<E>[K], event: SidestreamEvent) => void,
  ): () => void;
  /** The last event of a name that has or had a handler; the same object until the next one. */
  last<K extends keyof Named<E> & string>(name: K): Last<Named<E>[K]> | undefined;
  /** Calls the listener after each change of `status`, until the function that it returns is called. */
  subscribe(listener: () => void): () => void;
  /** Where the stream stands. */
  readonly status: Status;
  /** The present last event ID; empty where there is none. */
  readonly lastEventId: string;
  /** Ends the stream, for good. */
  close(): void;
}

/** An event with its parsed data. */
export interface Last<T> {
  readonly data: T;
  readonly event: SidestreamEvent;
}
