// Connections that components share: opened for the first that wants one, closed a while after the last has gone. What
// a component has of one is left to its handle; nothing here knows React.

import { connect } from "./index.js";
import type { SharedOptions } from "./shared.js";
import type { Fault, Last, Options, Stream } from "./types.js";

/**
 * What the hooks take. Functions may be new in each render, and nothing is opened anew for them. Callbacks are called
 * for each component; of other functions, `parse` as well, only the newest of the component that came last, for all.
 */
export type HookOptions = OwnOptions | TabsOptions;

/** For a connection of this page. */
export interface OwnOptions extends Omit<Options, "signal"> {
  /**
   * For whom the connection is: with another key it is another one, that knows nothing of the first. Default: empty.
   */
  key?: string;
  /**
   * What opens streams; connections by different functions are not shared. Default: `connect` of `@sidestream/client`.
   * Another one is asked by `reconnect` as it was at first, without the last event ID.
   */
  connect?: Open;
}

/** For a connection that tabs share. */
export interface TabsOptions extends Omit<SharedOptions, "signal"> {
  /** For whom the connection is. */
  key: string;
  /** `connect` of `@sidestream/client/worker`, always the same function. */
  connect: (url: string | URL, options: SharedOptions) => Stream;
}

/** Who uses a connection. */
export interface User {
  /** The newest that it was given. */
  readonly options: HookOptions;
  /** The stream is another one, or for a moment there is none. */
  moved(): void;
}

/** Milliseconds that a connection outlives its last user: time for StrictMode, a remount, another route. */
const LINGER = 1_000;

type Open = (url: string | URL, options: Options) => Stream;
type Call = (...args: unknown[]) => unknown;

/** What hears events; with which data is for the stream's types to say. */
export type Handler = (...args: never[]) => void;

const pool = new Set<Connection>();

/** Callbacks are each user's own, and make no other connection. */
const CALLBACKS = ["onOpen", "onError", "onGap", "onBye", "onDegraded", "onOk", "onSynced", "onState"];

/** Equal for what may share a connection: the order of options does not count, nor which function it is. */
export function keyOf(url: string, options: HookOptions): string {
  return JSON.stringify([url, options], (name, value: unknown) => {
    if (typeof value === "function") return name === "connect" || CALLBACKS.includes(name) ? undefined : "function";
    if (value?.constructor !== Object) return value instanceof Headers ? [...value] : value;
    return Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)));
  });
}

/** Calls all, whichever of them throw. */
function each([call, ...others]: Call[], what: unknown): void {
  try {
    call?.(what);
  } finally {
    if (others[0]) each(others, what);
  }
}

/** A stream, which may be replaced, and its users. */
export interface Connection {
  /** The present stream; none for the moment in which it is replaced. */
  readonly stream: Stream | undefined;
  /** What opens its streams, and what else makes a connection the same. */
  readonly open: Open;
  readonly key: string;
  /** As of the present stream. */
  on(name: string, call: Handler): (() => void) | undefined;
  /** The last event of a name, also by the streams before. */
  last(name: string): Last<unknown> | undefined;
  /**
   * Begins a use, for which a stream that `close` has ended is opened anew, and gives what ends that use, called once
   * or more often. What the server has refused for good stays so: a page that shows something else then may mount that.
   */
  join(user: User): () => void;
  /** Ends the stream, and opens another one from where it was, for all users. Throws what opening throws. */
  reconnect(): void;
}

/** Opens a connection for its first user. */
function opened(url: string, open: Open, key: string, first: User): Connection {
  const users = new Set<{ readonly user: User }>();
  // The names that were asked for, and their last events by streams that are gone.
  const kept = new Map<string, Last<unknown> | undefined>();
  let newest = first;
  let timer: ReturnType<typeof setTimeout>;
  let stream: Stream | undefined;

  // Tells all users, whichever of them throw, what happens to the present stream.
  const tell = (name: string) => (what?: unknown) => {
    const calls = stream ? [...users].flatMap(({ user }) => (user.options as Record<string, Call>)[name] ?? []) : [];
    each(calls, what);
    // A stream reports by itself what nobody wants to be told.
    const fault = what as Fault;
    if (name === "onError" && !calls[0] && "error" in fault) throw fault.error;
  };
  // The stream outlives these options: of functions, it calls what is the newest then.
  const start = (before?: Stream): Stream => {
    const options: Record<string, unknown> = { ...newest.options };
    for (const name in options) {
      const call = (...args: unknown[]): unknown => (newest.options as Record<string, Call>)[name]?.(...args);
      if (typeof options[name] === "function") options[name] = call;
    }
    for (const name of CALLBACKS) options[name] = tell(name);
    // To those who share connections with other tabs it would name another one.
    if (before && open === connect) options["lastEventId"] = before.lastEventId;
    return open(url, options);
  };
  const moved = (): void => [...users].forEach(({ user }) => user.moved());
  const last = (name: string): Last<unknown> | undefined => stream?.last(name) ?? kept.get(name);
  // By us: what the server has refused for good is kept for its users, and a second longer, as if it were open.
  const closed = (): boolean => stream?.status.reason?.type === "closed";

  const self: Connection = {
    get stream() {
      return stream;
    },
    open,
    key,
    last,
    on(name, call) {
      kept.set(name, kept.get(name));
      return stream?.on(name, call as () => void);
    },
    join(user) {
      newest = user;
      if (closed()) self.reconnect();
      const entry = { user };
      clearTimeout(timer);
      users.add(entry);
      return () => {
        if (!users.delete(entry)) return;
        const [left] = users;
        if (left) newest = left.user;
        else if (closed()) pool.delete(self);
        else timer = setTimeout(() => (pool.delete(self), stream?.close()), LINGER);
      };
    },
    reconnect() {
      if (!stream) return;
      for (const name of kept.keys()) kept.set(name, last(name));
      const before = stream;
      stream = undefined;
      moved();
      before.close();
      try {
        stream = start(before);
      } finally {
        // Where there is no other, the one that ended tells so, and where to go on from.
        stream ??= before;
        moved();
      }
    },
  };
  stream = start();
  pool.add(self);
  return self;
}

/** The connection of this key, opened if there is none. Throws what opening throws. */
export function pooled(url: string, key: string, user: User): Connection {
  const open = (user.options.connect ?? connect) as Open;
  const found = [...pool].find((connection) => connection.open === open && connection.key === key);
  return found ?? opened(url, open, key, user);
}
