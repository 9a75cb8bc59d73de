// What the types promise a page, checked by the compiler through the package's own exports: nothing here runs.

import {
  connect,
  type Bye,
  type Fault,
  type Gap,
  type Reason,
  type SidestreamEvent,
  type Status,
} from "@sidestream/client";

/** Compiles only where both are the same type. */
type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;
function same<A, B>(_: Same<A, B>): void {}

interface Events {
  order: { id: number };
  message: string;
}

const stream = connect<Events>("/events", {
  transport: "fetch",
  headers: { authorization: "Bearer" },
  credentials: "include",
  lastEventId: "e.1.1",
  subjects: ["events.user.alice.>"],
  backoff: { min: 500, max: 30_000 },
  maxRetries: Infinity,
  heartbeatTimeout: 2.5,
  parse: (event) => event.data,
  signal: new AbortController().signal,
  onOpen: ({ connection, heartbeat }) => (same<string, typeof connection>(true), same<number, typeof heartbeat>(true)),
  onError: (fault) => same<Fault, typeof fault>(true),
  onGap: (gap) => same<Gap, typeof gap>(true),
  onBye: (bye) => same<Bye, typeof bye>(true),
  onState: (status) => same<Status, typeof status>(true),
});

// Handlers get what the map says for the name.
const off = stream.on("order", (data, event) => {
  same<{ id: number }, typeof data>(true);
  same<SidestreamEvent, typeof event>(true);
});
same<() => void, typeof off>(true);
stream.on("message", (data) => same<string, typeof data>(true));
stream.on("sidestream.gap", (data) => same<Gap, typeof data>(true));
stream.on("sidestream.heartbeat", ({ time }) => same<number, typeof time>(true));
// @ts-expect-error a name that is not in the map
stream.on("ordre", () => {});
// @ts-expect-error a handler of other data
stream.on("order", (data: { id: string }) => data);
// @ts-expect-error a name of the server's that there is none of
stream.on("sidestream.gaps", () => {});

const last = stream.last("order");
same<{ id: number } | undefined, NonNullable<typeof last>["data"] | undefined>(true);
// @ts-expect-error there may be none yet
last.data;

// In the shape of useSyncExternalStore.
const store: [(listener: () => void) => () => void, () => Status] = [stream.subscribe, () => stream.status];
store[0](() => {})();
// @ts-expect-error read only
stream.status = stream.status;
// @ts-expect-error read only
stream.status.state = "open";

// Every reason can be told apart.
function told(reason: Reason): string | number {
  switch (reason.type) {
    case "refused":
      return reason.status + reason.code.length;
    case "bye":
      return reason.code;
    case "retries":
      return told(reason.last);
    case "content-type":
      return reason.contentType;
    case "network":
      return reason.message;
    case "closed":
    case "ended":
    case "timeout":
    case "offline":
      return reason.type;
  }
}
told({ type: "ended" });

// Without a map, every name has data that must be looked at first; the server's own are known.
const plain = connect(new URL("https://example.com/events"));
plain.on("anything", (data) => same<unknown, typeof data>(true));
plain.on("sidestream.bye", (data) => same<Bye, typeof data>(true));

// @ts-expect-error a transport that there is none of
connect("/events", { transport: "websocket" });
// @ts-expect-error an option that there is none of
connect("/events", { withCredentials: true });
// @ts-expect-error not undefined, but absent
connect("/events", { maxRetries: undefined });
