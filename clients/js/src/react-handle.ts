// What a component has of a connection: handlers and watchers, which stay when the connection is another one, and wait
// while there is none. Which connection that is, and since when, is left to the hooks.

import { pooled, type Connection, type Handler, type HookOptions } from "./react-pool.js";
import type { Last, Status } from "./types.js";

/** The status while nothing has been opened: of the first render, and of every render on a server. */
export const CONNECTING: Status = { state: "connecting", attempt: 0, lastEventId: "" };

/** What is the same whichever connection it is. */
export interface Always {
  /** Calls a handler for each event of a name, and `moved` when the connection is another one. */
  on(name: string, call: Handler, moved?: () => void): () => void;
  /** Calls a watcher when the status is another one, or the connection. */
  subscribe(call: () => void): () => void;
  /** Ends the connection, until it is opened anew. */
  close(): void;
  /** Opens the connection anew. */
  reconnect(): void;
}

/** A component's part of its connection. */
export interface Handle {
  readonly always: Always;
  /** The newest that it was given. */
  options: HookOptions;
  /** Takes the connection of this key, in place of the one before, and gives what ends that. */
  take(url: string, key: string): () => void;
  /** The status of the connection of this key; not of another one that is still in its place. */
  status(key: string): Status;
  /** The last event of a name by the connection of this key. */
  last(key: string, name: string): Last<unknown> | undefined;
}

/** What is wanted of a connection. */
interface Held {
  readonly begin: (connection: Connection) => (() => void) | undefined;
  /** It is another one. */
  readonly moved?: (() => void) | undefined;
  end?: (() => void) | undefined;
}

/** Makes one that has no connection yet. */
export function handle(): Handle {
  const all = new Set<Held>();
  let present: Connection | undefined;
  // Ends the use of the present one.
  let leave: (() => void) | undefined;

  const of = (key: string): Connection | undefined => (present?.key === key ? present : undefined);

  const hold = (begin: Held["begin"], moved?: () => void): (() => void) => {
    const held: Held = { begin, moved, end: present && begin(present) };
    all.add(held);
    return () => {
      all.delete(held);
      held.end?.();
    };
  };

  const moved = (): void => {
    for (const held of all) {
      held.end?.();
      held.end = present && held.begin(present);
    }
    for (const held of [...all]) held.moved?.();
  };

  const self = {
    always: {
      on: (name: string, call: Handler, moved?: () => void) => hold((connection) => connection.on(name, call), moved),
      subscribe: (call: () => void) => hold(({ stream }) => stream?.subscribe(call), call),
      close: () => present?.stream?.close(),
      reconnect: () => present?.reconnect(),
    },
    options: {},
    moved,
    take(url: string, key: string) {
      const connection = pooled(url, key, self);
      const mine = connection.join(self);
      // What was taken for the render before is given back a little later: too late for callbacks.
      leave?.();
      leave = mine;
      present = connection;
      moved();
      return () => {
        mine();
        if (leave !== mine) return;
        leave = present = undefined;
        moved();
      };
    },
    status: (key: string) => of(key)?.stream?.status ?? CONNECTING,
    last: (key: string, name: string) => of(key)?.last(name),
  };
  return self;
}
