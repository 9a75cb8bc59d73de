"use client";
// The hooks for React 18 and 19: a component names a connection, events and what to do with them. Nothing is opened
// while React renders, which it may do in vain; connections are counted elsewhere.

import {
  createContext,
  createElement,
  useContext,
  useEffect,
  useInsertionEffect,
  useLayoutEffect,
  useMemo,
  useRef,
  useState,
  useSyncExternalStore,
  type ReactElement,
  type ReactNode,
} from "react";
import { CONNECTING, handle, type Always } from "./react-handle.js";
import { keyOf, type HookOptions, type OwnOptions, type TabsOptions } from "./react-pool.js";
import type { Last, Named, SidestreamEvent, Status, Stream } from "./types.js";

export type { HookOptions, OwnOptions, TabsOptions } from "./react-pool.js";
export type * from "./types.js";

/** Events of these types, and those without a name, which a server may always send. */
export type WithMessage<E extends object> = Omit<{ message: unknown }, keyof E> & E;

/**
 * A component's part of a connection. The object is another one when `status` is; `on`, `subscribe`, `close` and
 * `reconnect` are always the same, `last` as long as the URL and the options are.
 */
export interface Sidestream<E extends object = Record<string, unknown>> extends Pick<
  Stream<WithMessage<E>>,
  "last" | "on" | "subscribe"
> {
  /** Where the connection stands. `connecting` before it is opened, and on a server. */
  readonly status: Status;
  /** Ends the connection, for all who share it, until `reconnect` or a new component opens it. */
  close(): void;
  /** Ends the connection, and opens it anew, for all who share it; by the default `connect` from the last event ID. */
  reconnect(): void;
}

/** What the provider takes. */
export type SidestreamProviderProps = {
  /** As for `connect`. */
  url: string | URL;
  children?: ReactNode;
} & (
  | {
      /** What else the connection is to be. */
      options?: HookOptions | undefined;
      /** What opens it, if not `options` say so. */
      connect?: OwnOptions["connect"] | undefined;
    }
  | { options: Omit<TabsOptions, "connect">; connect: TabsOptions["connect"] }
);

/** The provider and the hooks for events of these types. */
export interface SidestreamHooks<E extends object = Record<string, unknown>> {
  /** Opens a connection for all that stands below. */
  SidestreamProvider(props: SidestreamProviderProps): ReactElement;
  /**
   * The connection of this URL and these options, shared by all who name the same; without arguments, the provider's.
   * It is opened when the component is mounted, and closed a second after the last one is unmounted. Throws where there
   * is neither a URL nor a provider.
   */
  useSidestream(url?: string | URL, options?: HookOptions): Sidestream<E>;
  /**
   * Calls the handler of the last render for each event of this name, by the provider's connection or by another one.
   */
  useEvent<K extends keyof Named<WithMessage<E>> & string>(
    name: K,
    handler: (data: Named<WithMessage<E>>[K], event: SidestreamEvent) => void,
    of?: Sidestream<E>,
  ): void;
  /** The last event of this name, if a component has asked for the name before it came. */
  useLastEvent<K extends keyof Named<WithMessage<E>> & string>(
    name: K,
    of?: Sidestream<E>,
  ): Last<Named<WithMessage<E>>[K]> | undefined;
}

type Handler = (data: unknown, event: SidestreamEvent) => void;
/** As the hooks see it among themselves: names and data of any type. */
type View = Always & Pick<Sidestream, "last" | "status">;

// On a server there is nothing to be done, and React 18 complains.
const useCommitEffect = "document" in globalThis ? useLayoutEffect : useEffect;

/**
 * Holds something from the commit on, until what it depends on changes; also while Suspense hides the component, which
 * undoes the first of the effects, but not while Activity does. What both have taken is begun once.
 */
function useHeld(begin: () => () => void, dependencies: unknown[]): void {
  const take = useMemo(() => {
    let count = 0;
    let end: () => void;
    return () => {
      if (!count) end = begin();
      count += 1;
      return () => {
        count -= 1;
        if (!count) end();
      };
    };
  }, dependencies);
  useCommitEffect(take, [take]);
  useEffect(take, [take]);
}

/** A connection of the component's own; without a URL, none. */
function useOwn(url: string | URL | undefined, options: HookOptions = {}): View {
  const [own] = useState(handle);
  const target = String(url ?? "");
  const key = keyOf(target, options);
  useInsertionEffect(() => {
    own.options = options;
  });
  useHeld(() => (target ? own.take(target, key) : () => {}), [own, target, key]);
  return useMemo(
    () =>
      ({
        ...own.always,
        last: (name: string) => own.last(key, name),
        get status() {
          return own.status(key);
        },
      }) as View,
    [own, key],
  );
}

/**
 * The provider and the hooks with their types, and with a context of their own. Call it once, outside of components.
 */
export function createSidestream<E extends object = Record<string, unknown>>(): SidestreamHooks<E> {
  const context = createContext<View | undefined>(undefined);

  const useGiven = (given: View | undefined): View => {
    const provided = useContext(context);
    const view = given ?? provided;
    if (!view) throw new Error("no SidestreamProvider");
    return view;
  };

  const hooks = {
    SidestreamProvider({ url, options, connect, children }: SidestreamProviderProps): ReactElement {
      const value = useOwn(url, (connect ? { connect, ...options } : options) as HookOptions);
      return createElement(context.Provider, { value }, children);
    },

    useSidestream(url?: string | URL, options?: HookOptions): View {
      const own = useOwn(url, options);
      const view = useGiven(url === undefined ? undefined : own);
      const status = useSyncExternalStore(
        view.subscribe,
        () => view.status,
        () => CONNECTING,
      );
      return useMemo(() => ({ ...view, status }), [view, status]);
    },

    useEvent(name: string, handler: Handler, of?: View): void {
      const { on } = useGiven(of);
      const now = { on, name, handler };
      const newest = useRef(now);
      useInsertionEffect(() => {
        newest.current = now;
      });
      useHeld(
        () =>
          on(name, (data, event) => {
            const { current } = newest;
            // What was held for the render before is let go a little later.
            if (current.on === on && current.name === name) current.handler(data, event);
          }),
        [on, name],
      );
    },

    useLastEvent(name: string, of?: View): Last<unknown> | undefined {
      const { on, last } = useGiven(of);
      // The store is subscribed to only after the commit, and an event that nobody asked for is not kept.
      useCommitEffect(() => on(name, () => {}), [on, name]);
      const watch = useMemo(() => (changed: () => void) => on(name, changed, changed), [on, name]);
      return useSyncExternalStore(
        watch,
        () => last(name),
        () => undefined,
      );
    },
  };
  return hooks as unknown as SidestreamHooks<E>;
}

const plain: SidestreamHooks = /* @__PURE__ */ createSidestream();

/** Opens a connection for all that stands below. */
export const SidestreamProvider: SidestreamHooks["SidestreamProvider"] = plain.SidestreamProvider;
/** As in `SidestreamHooks`, for events of any name. */
export const useSidestream: SidestreamHooks["useSidestream"] = plain.useSidestream;
/** As in `SidestreamHooks`, for events of any name. */
export const useEvent: SidestreamHooks["useEvent"] = plain.useEvent;
/** As in `SidestreamHooks`, for events of any name. */
export const useLastEvent: SidestreamHooks["useLastEvent"] = plain.useLastEvent;
