// What the types of the hooks promise a page: nothing here runs.

import { createElement, type ReactElement } from "react";
import { connect, type Gap, type Last, type SidestreamEvent, type Status } from "@sidestream/client";
import * as plain from "@sidestream/client/react";
import { connect as shared } from "@sidestream/client/worker";

/** Compiles only where both are the same type. */
type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;
function same<A, B>(_: Same<A, B>): void {}

interface Events {
  order: { id: number };
  message: string;
}

const { SidestreamProvider, useEvent, useLastEvent, useSidestream } = plain.createSidestream<Events>();

export function Page(): ReactElement {
  const provided = useSidestream();
  same<Status, typeof provided.status>(true);
  const off = provided.on("order", ({ id }) => same<number, typeof id>(true));
  same<() => void, typeof off>(true);
  same<[void, void], [ReturnType<typeof provided.close>, ReturnType<typeof provided.reconnect>]>(true);
  // @ts-expect-error read only
  provided.status = provided.status;

  const own = useSidestream(new URL("https://example.com/events"), {
    key: "alice",
    headers: () => ({ authorization: "Bearer" }),
    connect,
    onGap: (gap) => same<Gap, typeof gap>(true),
  });
  useEvent(
    "order",
    (data, event) => (same<{ id: number }, typeof data>(true), same<SidestreamEvent, typeof event>(true)),
  );
  useEvent("message", (data) => same<string, typeof data>(true), own);
  useEvent("sidestream.gap", (data) => same<Gap, typeof data>(true));
  // @ts-expect-error a name that is not in the map
  useEvent("ordre", () => {});
  // @ts-expect-error a handler of other data
  useEvent("order", (data: { id: string }) => data);

  const last = useLastEvent("order", own);
  same<Last<{ id: number }> | undefined, typeof last>(true);
  // @ts-expect-error a name that is not in the map
  useLastEvent("ordre");

  // @ts-expect-error unmounting ends it
  useSidestream("/events", { signal: new AbortController().signal });
  // @ts-expect-error an option that there is none of
  useSidestream("/events", { withCredentials: true });

  // Without a map, data must be looked at first.
  plain.useEvent("anything", (data) => same<unknown, typeof data>(true));
  plain.useEvent("sidestream.gap", (data) => same<Gap, typeof data>(true));
  return createElement("p", null, last?.data.id);
}

createElement(SidestreamProvider, { url: "/events", options: { maxRetries: 3 }, connect }, createElement(Page));
// @ts-expect-error no URL
createElement(SidestreamProvider, {});

// A map that does not name the default name.
const prices = plain.createSidestream<{ price: number }>();
prices.useEvent("message", (data) => same<unknown, typeof data>(true), prices.useSidestream());
prices.useSidestream().on("message", (data) => same<unknown, typeof data>(true));
prices.useEvent("price", (data) => same<number, typeof data>(true));
// @ts-expect-error a name that is not in the map
prices.useEvent("prices", () => {});

// One connection for all tabs; as JSX, which calls the provider like this.
const worker = (): SharedWorker => new SharedWorker("/worker.js", { type: "module" });
SidestreamProvider({ url: "/events", connect: shared, options: { key: "alice", worker } });
SidestreamProvider({ url: "/events", options: { connect: shared, key: "alice", onGap: ({ next }) => next } });
useSidestream("/events", { connect: shared, key: "alice", worker, headers: { authorization: "Bearer" } });
// @ts-expect-error whose connection is it?
SidestreamProvider({ url: "/events", connect: shared });
// @ts-expect-error whose connection is it?
useSidestream("/events", { connect: shared });
// @ts-expect-error functions cannot be said to a worker
SidestreamProvider({ url: "/events", connect: shared, options: { key: "alice", headers: () => ({}) } });
// @ts-expect-error functions cannot be said to a worker
useSidestream("/events", { connect: shared, key: "alice", headers: () => ({}) });
