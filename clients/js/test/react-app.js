// An application with the hooks, as browsers and a server show it for the tests: what it is made of is said by its
// properties.

import { createElement as h, StrictMode, useEffect, useRef, useState } from "react";
import { createSidestream } from "../dist/react.js";

const { SidestreamProvider, useSidestream, useEvent, useLastEvent } = createSidestream();

/** What was heard by each listener, and seen by each other component. */
export const heard = {};
export const seen = [];

function write(tag, data, render) {
  (heard[tag] ??= []).push({ data, render });
}

/** Hears by a handler that is new in each render, and renders with each event. */
function Listener({ tag, of }) {
  const [count, setCount] = useState(0);
  useEvent(
    "note",
    (data) => {
      write(tag, data, count);
      setCount(count + 1);
    },
    of,
  );
  return h("li", null, `${tag} ${count}`);
}

/** The same, by a connection of its own. */
function Own({ tag, url }) {
  return h(Listener, { tag, of: useSidestream(url, options()) });
}

/** Subscribes once, by itself. */
function Once({ tag }) {
  const { on } = useSidestream();
  const mounted = useRef(0);
  useEffect(() => {
    mounted.current += 1;
    return on("note", (data) => write(tag, data, mounted.current));
  }, [on, tag]);
  return null;
}

function Status() {
  const { status } = useSidestream();
  return h("p", { id: "status", "data-connection": status.connection }, status.state);
}

function Late() {
  const last = useLastEvent("note")?.data ?? "nothing";
  seen.push(last);
  return h("p", { id: "late" }, last);
}

/** New in each render. */
function options() {
  return { parse: ({ data }) => data, backoff: { max: 1_000, min: 100, stable: 1_000 } };
}

/** `url`; tags of `listeners`, `once` and `own` ones; `late`: the last event is shown; `place`: a key. */
export function App({ url, listeners = [], once = [], own = [], late = false, place = 0 }) {
  const children = [
    h(Status, { key: "status" }),
    ...listeners.map((tag) => h(Listener, { key: tag, tag })),
    ...once.map((tag) => h(Once, { key: tag, tag })),
    late && h(Late, { key: "late" }),
  ];
  return h(
    StrictMode,
    null,
    h(SidestreamProvider, { key: place, url, options: options() }, children),
    own.map((tag) => h(Own, { key: tag, tag, url })),
  );
}
