// The hooks under StrictMode, with React 18 and 19, in a world where time passes when a test says so.

import assert from "node:assert/strict";
import { test } from "node:test";
import { connect } from "../dist/index.js";
import { app, VERSIONS } from "./react-world.js";
import { NOTHING, world } from "./world.js";

const URL = "https://example.com/events";

/** A test for each React. It gets React's tools and the world's; what it leaves behind fails it. */
function each(name, run, versions = VERSIONS) {
  for (const version of versions) {
    test(`React ${version}: ${name}`, async (t) => {
      const a = app(t, version);
      const w = world(t);
      const pass = (milliseconds) => a.run(() => w.pass(milliseconds));
      await run({
        ...a,
        w,
        pass,
        open: (options) => a.run(() => w.request.open(options)),
        say: (name, data, request = w.request) =>
          a.run(() => request.push(`event: ${name}\nid: e.${data}.1\ndata: ${data}\n\n`)),
        /** A provider, with options that are new each time. */
        provider: (children, props) =>
          a.h(a.hooks.SidestreamProvider, { url: URL, options: { transport: "fetch" }, ...props }, children),
        /** A component that writes down what it hears, by a handler that is new in each render. */
        listener:
          (heard, name = "note") =>
          ({ of, tag = "" }) => {
            a.hooks.useEvent(name, (data) => heard.push(`${tag}${data}`), of);
            return null;
          },
        /** A component that shows the last event of a name, and writes down each render. */
        last:
          (seen, name = "note") =>
          ({ of }) => {
            seen.push(a.hooks.useLastEvent(name, of)?.data);
            return a.h("i", null, seen.at(-1));
          },
      });
      await a.unmount();
      await pass(1_000);
      assert.deepEqual(w.left, NOTHING);
      assert.deepEqual(a.complaints(), []);
    });
  }
}

/** `connect`, with each subscription told. */
function spied(tell) {
  return (url, options) => {
    const stream = connect(url, options);
    return Object.create(stream, { on: { value: (name, call) => (tell(name, call), stream.on(name, call)) } });
  };
}

/** What is like the `connect` of `./worker`: writes down what it is asked for, and hears what a test says. */
function tabs(asked) {
  let last;
  const fake = (url, options) => {
    let status = { state: "open", attempt: 0, lastEventId: "" };
    const handlers = new Map();
    const listeners = new Set();
    const set = (next) => {
      status = next;
      options.onState?.(status);
      for (const listener of [...listeners]) listener();
    };
    asked.push({ url, options });
    last = {
      get status() {
        return status;
      },
      lastEventId: "",
      last: (name) => handlers.get(name)?.last,
      on(name, call) {
        const held = handlers.get(name) ?? { calls: new Set() };
        handlers.set(name, held);
        held.calls.add(call);
        return () => void held.calls.delete(call);
      },
      subscribe: (listener) => (listeners.add(listener), () => void listeners.delete(listener)),
      close: () => set({ state: "closed", attempt: 0, lastEventId: last.lastEventId, reason: { type: "closed" } }),
      hear(name, data) {
        this.lastEventId = `e.${data}.1`;
        const held = handlers.get(name);
        held.last = { data, event: { name, data: String(data), lastEventId: this.lastEventId, cached: true } };
        for (const call of [...held.calls]) call(data, held.last.event);
      },
    };
    return last;
  };
  return { fake, stream: () => last };
}

each(
  "one connection under StrictMode, closed a second after it is unmounted",
  async ({ provider, render, unmount, open, pass, w, h }) => {
    await render(provider());
    await open();
    await render(provider(h("b")));
    await unmount();
    await pass(999);
    assert.equal(w.left.open, 1);
    await pass(1);
    assert.deepEqual(w.left, NOTHING);
    assert.equal(w.requests.length, 1);
    await render(provider());
    assert.equal(w.requests.length, 2);
  },
);

each(
  "a remount by key, and another place, keep the connection",
  async ({ provider, listener, render, open, say, pass, w, h }) => {
    const heard = [];
    const child = h(listener(heard));
    await render(provider(child, { key: 1 }));
    await open();
    await render(provider(child, { key: 2 }));
    await say("note", 1);
    await render(h("div", null, provider(child)));
    await say("note", 2);
    await pass(5_000);
    await say("note", 3);
    assert.deepEqual([heard, w.requests.length, w.left.open], [["1", "2", "3"], 1, 1]);
  },
);

each("options that are new in each render are the same options", async ({ provider, render, w }) => {
  const options = (subjects, min) => ({ options: { transport: "fetch", subjects, backoff: { min, max: 9_000 } } });
  await render(provider(null, options(["a", "b"], 7)));
  await render(
    provider(null, { options: { backoff: { max: 9_000, min: 7 }, subjects: ["a", "b"], transport: "fetch" } }),
  );
  assert.equal(w.requests.length, 1);
  await render(provider(null, options(["a", "b"], 8)));
  await render(provider(null, options(["b", "a"], 8)));
  assert.equal(w.requests.length, 3);
});

each(
  "the handler of the last render is called, and nothing is subscribed anew",
  async ({ provider, listener, render, open, say, h }) => {
    const heard = [];
    const Listener = listener(heard);
    let count = 0;
    const props = { connect: spied(() => (count += 1)) };
    await render(provider(h(Listener, { tag: "a" }), props));
    await open();
    const before = count;
    for (const tag of ["b", "c", "d"]) {
      await render(provider(h(Listener, { tag }), props));
      await say("note", heard.length + 1);
    }
    assert.deepEqual([heard, count], [["b1", "c2", "d3"], before]);
  },
);

each(
  "a handler that renders anew misses nothing of what comes at once",
  async ({ provider, render, open, run, w, h, React, hooks }) => {
    const heard = [];
    function Counter() {
      const [count, setCount] = React.useState(0);
      hooks.useEvent("note", (data) => {
        heard.push(data);
        setCount(data);
      });
      return h("i", null, count);
    }
    await render(provider(h(Counter)));
    await open();
    await run(() => w.request.push([1, 2, 3, 4].map((data) => `event: note\ndata: ${data}\n\n`).join("")));
    assert.deepEqual(heard, [1, 2, 3, 4]);
  },
);

each(
  "events are heard from the commit on, before effects have run",
  async ({ provider, last, render, open, run, text, w, h, React, hooks }) => {
    const heard = [];
    const seen = [];
    const calls = new Map();
    const props = { connect: spied((name, call) => calls.set(name, [...(calls.get(name) ?? []), call])) };
    await render(provider(null, props));
    await open();
    function Early() {
      hooks.useEvent("note", (data) => heard.push(data));
      // Comes after the layout effects of those above, and before all other effects.
      React.useLayoutEffect(() => void heard.push(calls.has("note"), calls.has("price")));
      return null;
    }
    await render(provider([h(last(seen, "price"), { key: 1 }), h(Early, { key: 2 })], props));
    assert.deepEqual(heard.slice(0, 2), [true, true]);
    await run(() => w.request.push("event: price\ndata: 1\n\nevent: note\ndata: 2\n\n"));
    assert.equal(heard.at(-1), 2);
    assert.match(text(), /"1"/);
  },
);

each(
  "another name is heard from the commit on, and the old one no more",
  async ({ provider, render, open, say, h, React, hooks }) => {
    const heard = [];
    const calls = {};
    let committed = () => {};
    const props = { connect: spied((name, call) => (calls[name] = call)) };
    function Listener({ name }) {
      hooks.useEvent(name, (data) => heard.push(`${name} ${data}`));
      React.useLayoutEffect(() => committed(), [name]);
      return null;
    }
    await render(provider(h(Listener, { name: "a" }), props));
    await open();
    await say("a", 1);
    const old = calls.a;
    committed = () => (old(2, {}), calls.b(3, {}));
    await render(provider(h(Listener, { name: "b" }), props));
    await say("a", 4);
    await say("b", 5);
    assert.deepEqual(heard, ["a 1", "b 3", "b 5"]);
  },
);

each(
  "subscribing before there is a connection works, and so does the end of that",
  async ({ provider, render, open, say, w, h, React, hooks }) => {
    const heard = [];
    const requests = [];
    function Early() {
      const { on } = hooks.useSidestream();
      React.useLayoutEffect(() => {
        requests.push(w.requests.length);
        on("note", (data) => heard.push(`gone ${data}`))();
        return on("note", (data) => heard.push(data));
      }, [on]);
      return null;
    }
    await render(provider(h(Early)));
    assert.equal(requests[0], 0, "a child's effects come before those of its provider");
    await open();
    await say("note", 1);
    assert.deepEqual(heard, [1]);
    await render(provider(null));
    await say("note", 2);
    assert.deepEqual(heard, [1]);
  },
);

each(
  "a component that comes late sees the last event at once",
  async ({ provider, last, listener, render, open, say, text, h }) => {
    const seen = [];
    const Last = last(seen);
    const Listener = listener([]);
    await render(provider(h(Listener)));
    await open();
    await say("note", 7);
    await render(provider([h(Listener, { key: 0 }), h(Last, { key: 1 })]));
    assert.equal(seen[0], 7);
    assert.match(text(), /"7"/);
  },
);

each("the last event renders for its own name only", async ({ provider, last, render, open, say, h }) => {
  const seen = [];
  const Last = last(seen);
  await render(provider([h(Last, { key: 1 }), h(last([], "other"), { key: 2 })]));
  await open();
  seen.length = 0;
  await say("other", 1);
  await say("note", 2);
  await say("other", 3);
  assert.deepEqual([...new Set(seen)], [2]);
});

each(
  "two components and a provider with the same URL have one connection",
  async ({ provider, render, open, run, say, pass, text, w, h, hooks }) => {
    const heard = [];
    function Own({ tag }) {
      const stream = hooks.useSidestream(URL, {
        transport: "fetch",
        onOpen: ({ connection }) => heard.push(`${tag} ${connection}`),
        onGap: () => {
          heard.push(`${tag} gap`);
          throw new Error("of the page");
        },
        onError: ({ type }) => heard.push(`${tag} ${type}`),
        onState: ({ state }) => heard.push(`${tag} ${state}`),
      });
      hooks.useEvent("note", (data) => heard.push(`${tag} ${data}`), stream);
      return h("i", null, stream.status.state);
    }
    await render([provider(null, { key: 0 }), h(Own, { tag: "a", key: 1 }), h(Own, { tag: "b", key: 2 })]);
    assert.match(text(), /connecting.*connecting/);
    await open();
    assert.match(text(), /open.*open/);
    await say("note", 1);
    await run(() => w.request.push("event: sidestream.gap\ndata: {}\n\n"));
    assert.deepEqual(heard, [
      "a open",
      "b open",
      "a c1",
      "b c1",
      "a 1",
      "b 1",
      "a gap",
      "b gap",
      "a handler",
      "b handler",
    ]);
    heard.length = 0;
    await render([h(Own, { tag: "b", key: 2 })]);
    await pass(2_000);
    await say("note", 2);
    assert.deepEqual([heard, w.requests.length, w.left.open], [["b 2"], 1, 1]);
  },
);

each(
  "functions among the options are the newest, and open nothing anew",
  async ({ provider, listener, render, open, pass, run, w, h }) => {
    const heard = [];
    const child = h(listener(heard));
    const props = (token) => ({
      options: { headers: () => ({ authorization: token }), parse: ({ data }) => `${token} ${data}` },
    });
    await render(provider(child, props("a")));
    await open();
    await render(provider(child, props("b")));
    await run(() => w.request.push("event: note\ndata: 1\n\n"));
    w.chance(0);
    await run(() => w.request.end());
    await pass(1);
    assert.deepEqual(
      w.requests.map(({ headers }) => headers.get("authorization")),
      ["a", "b"],
    );
    assert.deepEqual(heard, ["b 1"]);
  },
);

each(
  "of several who give functions, one that is still there is asked",
  async ({ provider, render, open, pass, run, w, h }) => {
    const props = (token, key) => ({ key, options: { headers: () => ({ authorization: token }) } });
    await render([provider(null, props("a", 1)), provider(null, props("b", 2))]);
    await open();
    await render([provider(null, props("c", 1))]);
    w.chance(0);
    await run(() => w.request.end());
    await pass(1);
    assert.equal(w.request.headers.get("authorization"), "c");
  },
);

each("what nobody wants to be told is reported", async ({ provider, render, open, say, h, hooks }) => {
  const reported = [];
  globalThis.reportError = (error) => reported.push(error.message);
  function Thrower() {
    hooks.useEvent("note", () => {
      throw new Error("of the page");
    });
    return null;
  }
  await render(provider(h(Thrower)));
  await open();
  await say("note", 1);
  delete globalThis.reportError;
  assert.deepEqual(reported, ["of the page"]);
});

each("another URL: the old connection ends, handlers move, and nothing old is shown", async (tools) => {
  const { provider, listener, render, open, say, pass, w, h, hooks, React } = tools;
  const heard = [];
  const seen = [];
  const told = [];
  let on;
  function Last({ url }) {
    const stream = hooks.useSidestream();
    on ??= stream.on;
    assert.equal(stream.on, on, "another URL is the same subscription");
    const last = hooks.useLastEvent("note");
    seen.push([url, last?.data, stream.status.state]);
    // A subscription of the component's own, made once.
    React.useEffect(() => stream.on("note", (data) => heard.push(`own ${data}`)), []);
    return null;
  }
  const Listener = listener(heard);
  const shown = (url) =>
    provider([h(Last, { url, key: 1 }), h(Listener, { key: 2 })], {
      url,
      options: { transport: "fetch", onDegraded: () => told.push(url) },
    });
  await render(shown("/a"));
  await open();
  await say("note", 1);
  await render(shown("/b"));
  const [old, fresh] = w.requests;
  await open({ id: "f.1.1" });
  await say("note", 2, old);
  await tools.run(() => old.push("event: sidestream.degraded\ndata: {}\n\n"));
  await say("note", 3, fresh);
  assert.deepEqual(heard, ["1", "own 1", "3", "own 3"]);
  assert.deepEqual(told, []);
  assert.ok(
    seen.filter(([url]) => url === "/b").every(([, data]) => data === undefined || data === 3),
    JSON.stringify(seen),
  );
  assert.equal(seen.find(([url]) => url === "/b")[2], "connecting");
  assert.deepEqual(
    [w.requests.map(({ url }) => url.pathname), fresh.headers.get("last-event-id")],
    [["/a", "/b"], null],
  );
  await pass(1_000);
  assert.deepEqual([old.signal.aborted, fresh.signal.aborted, w.left.timers], [true, false, 1]);
});

each(
  "there and back again within a second is the connection of before",
  async ({ provider, listener, render, open, say, pass, w, h }) => {
    const heard = [];
    const child = h(listener(heard));
    await render(provider(child, { url: "/a" }));
    await open();
    await render(provider(child, { url: "/b" }));
    await render(provider(child, { url: "/a" }));
    await pass(5_000);
    await say("note", 1, w.requests[0]);
    assert.deepEqual([heard, w.requests.map(({ signal }) => signal.aborted)], [["1"], [false, true]]);
  },
);

each(
  "another key is another connection, that knows nothing of the first",
  async ({ provider, last, render, open, say, text, w, h }) => {
    const child = h(last([]));
    const as = (key) => provider(child, { key, options: { transport: "fetch", key } });
    await render(as("alice"));
    await open();
    await say("note", 1);
    await render(as("bob"));
    assert.equal(w.requests.length, 2);
    assert.equal(w.request.headers.get("last-event-id"), null);
    assert.doesNotMatch(text(), /"1"/);
  },
);

each(
  "close ends it, for all and with its timers, until reconnect",
  async ({ provider, listener, last, render, open, run, say, pass, text, w, h, hooks }) => {
    const heard = [];
    let stream;
    function Status() {
      stream = hooks.useSidestream();
      return h("b", null, stream.status.state);
    }
    const all = provider([h(Status, { key: 1 }), h(listener(heard), { key: 2 }), h(last([]), { key: 3 })]);
    await render(all);
    await open();
    await say("note", 5);
    await run(() => w.request.end());
    assert.match(text(), /waiting/);
    await run(() => stream.close());
    assert.match(text(), /closed/);
    assert.deepEqual(w.left, NOTHING);
    await pass(100_000);
    assert.equal(w.requests.length, 1);

    await run(() => stream.reconnect());
    assert.equal(w.request.headers.get("last-event-id"), "e.5.1");
    assert.match(text(), /connecting.*"5"/, "the last event stays");
    await open();
    await say("note", 6);
    assert.match(text(), /open.*"6"/);
    assert.deepEqual([heard, w.requests.length], [["5", "6"], 2]);
  },
);

each(
  "what was closed does not linger, and a new component opens it anew",
  async ({ provider, render, open, unmount, run, w, h, hooks }) => {
    let stream;
    function Status() {
      stream = hooks.useSidestream();
      return null;
    }
    await render(provider(h(Status), { key: 1 }));
    await open();
    await run(() => stream.close());
    await render(provider(h(Status), { key: 2 }));
    assert.equal(w.requests.length, 2);
    assert.equal(stream.status.state, "connecting");
    await run(() => stream.close());
    await unmount();
    assert.deepEqual(w.left, NOTHING);
  },
);

each(
  "reconnect never leaves two, in any state",
  async ({ provider, listener, render, open, run, say, pass, w, h, hooks }) => {
    const heard = [];
    const states = [];
    let stream;
    function Status() {
      stream = hooks.useSidestream(URL, {
        transport: "fetch",
        onState: ({ state }) => {
          states.push(state);
          // Who comes back by hand as well.
          if (state !== "open") stream.reconnect();
        },
      });
      return null;
    }
    await render([h(Status, { key: 1 }), provider(h(listener(heard)), { key: 2 })]);
    await run(() => stream.reconnect());
    await open();
    await run(() => (stream.reconnect(), stream.reconnect()));
    await open();
    await run(() => w.request.end());
    await open();
    assert.deepEqual([w.left.open, w.left.timers], [1, 1], "the watchdog's");
    await say("note", 1);
    assert.deepEqual(heard, ["1"]);
    assert.ok(!states.includes("closed"));
  },
);

each(
  "a refusal for good is shown, and reconnect asks again",
  async ({ provider, render, open, run, text, w, h, hooks }) => {
    let stream;
    function Status() {
      stream = hooks.useSidestream();
      return h("b", null, `${stream.status.state} ${stream.status.reason?.status}`);
    }
    await render(provider(h(Status)));
    await run(() => w.request.answer(401, {}, "{}"));
    assert.match(text(), /closed 401/);
    await run(() => stream.reconnect());
    await open();
    assert.match(text(), /open undefined/);
  },
);

each(
  "a page that is shown instead of what was refused does not ask again, until it calls reconnect",
  async ({ provider, render, open, run, pass, text, w, h, hooks }) => {
    const own = () => hooks.useSidestream(URL, { transport: "fetch" });
    let reconnect;
    function SignedOut() {
      ({ reconnect } = own());
      return h("b", null, "signed out");
    }
    function Parent() {
      const { state, reason } = own().status;
      return state === "closed" && reason.status === 401 ? h(SignedOut) : h("i", null, state);
    }
    for (const element of [h(Parent, { key: 1 }), h(Parent, { key: 2 }), provider(h(SignedOut), { key: 3 })]) {
      await render(element);
      if (w.requests.length === 1) await run(() => w.request.answer(401, {}, "{}"));
      assert.match(text(), /signed out/);
      await pass(5_000);
      assert.equal(w.requests.length, 1);
    }
    await render(h(Parent, { key: 1 }));
    await run(() => reconnect());
    assert.equal(w.requests.length, 2);
    await open();
    assert.match(text(), /open/);
  },
);

each(
  "what nobody has wanted for a second is asked for anew after a refusal",
  async ({ provider, render, unmount, run, pass, w }) => {
    await render(provider(null));
    await run(() => w.request.answer(401, {}, "{}"));
    await unmount();
    await pass(999);
    await render(provider(null));
    assert.equal(w.requests.length, 1);
    await unmount();
    await pass(1_000);
    await render(provider(null));
    assert.equal(w.requests.length, 2);
  },
);

each(
  "reconnect that cannot open throws, and the next one opens where it was",
  async ({ provider, listener, render, open, run, say, text, w, h, hooks }) => {
    const heard = [];
    let fails = false;
    let stream;
    const parts = Object.getOwnPropertyDescriptor(globalThis, "AbortController");
    function Status() {
      stream = hooks.useSidestream();
      return h("b", null, stream.status.state);
    }
    const child = [h(Status, { key: 1 }), h(listener(heard), { key: 2 })];
    await render(provider(child));
    await open();
    await say("note", 1);
    // What opening needs, which a page may be refused.
    globalThis.AbortController = class extends parts.value {
      constructor() {
        super();
        if (fails) throw new Error("of opening");
      }
    };
    try {
      fails = true;
      for (const _ of [1, 2]) {
        await run(() => assert.throws(() => stream.reconnect(), /of opening/));
        assert.match(text(), /closed/);
      }
    } finally {
      fails = false;
      Object.defineProperty(globalThis, "AbortController", parts);
    }
    await run(() => stream.reconnect());
    assert.deepEqual([w.requests.length, w.request.headers.get("last-event-id")], [2, "e.1.1"]);
    await open();
    await say("note", 2);
    assert.deepEqual(heard, ["1", "2"]);
  },
);

each("headers are the same by what they contain, however they are given", async ({ provider, render, w }) => {
  const headers = (key, token) => provider(null, { key, options: { headers: new Headers({ authorization: token }) } });
  await render([headers(1, "alice"), headers(2, "bob"), headers(3, "alice")]);
  assert.deepEqual(
    w.requests.map(({ headers }) => headers.get("authorization")),
    ["alice", "bob"],
  );
});

each(
  "a connection that tabs share is asked for the same by reconnect",
  async ({ render, run, text, h, hooks }) => {
    const asked = [];
    const { stream, fake } = tabs(asked);
    const started = [];
    let reconnect;
    function Status() {
      const { status, ...always } = hooks.useSidestream();
      ({ reconnect } = always);
      return h("b", null, `${status.state} ${hooks.useLastEvent("note")?.data}`);
    }
    const options = (tag) => ({ key: "alice", subjects: ["a"], worker: () => started.push(tag) });
    const shown = (tag) => h(hooks.SidestreamProvider, { url: URL, connect: fake, options: options(tag) }, h(Status));
    await render(shown("a"));
    await render(shown("b"));
    assert.equal(asked.length, 1, "which function it is makes no other connection");
    await run(() => stream().hear("note", 1));
    assert.match(text(), /open 1/);
    await run(() => reconnect());
    asked[1].options.worker();
    assert.deepEqual(started, ["b"]);
    assert.deepEqual(
      asked.map(({ url, options: { key, subjects, lastEventId } }) => [url, key, subjects, lastEventId]),
      Array(2).fill([URL, "alice", ["a"], undefined]),
    );
    assert.deepEqual(Object.keys(asked[1].options), Object.keys(asked[0].options));
  },
);

each("a render that is thrown away opens nothing", async ({ provider, render, pass, w, h, React }) => {
  let done = false;
  let resolve;
  const data = new Promise((r) => (resolve = r));
  function Slow() {
    if (!done) throw data;
    return null;
  }
  const suspended = h(React.Suspense, { fallback: null }, [provider(null, { key: 1 }), h(Slow, { key: 2 })]);
  await render(suspended);
  await pass(5_000);
  assert.deepEqual([w.requests.length, w.left], [0, NOTHING]);
  done = true;
  resolve();
  await render(suspended);
  assert.equal(w.requests.length, 1);
});

each(
  "what Suspense hides goes on hearing",
  async ({ provider, last, listener, render, open, say, pass, text, w, h, React }) => {
    const heard = [];
    let waits = false;
    const never = new Promise(() => {});
    function Slow() {
      if (waits) throw never;
      return null;
    }
    const Listener = listener(heard);
    const Last = last([]);
    const shown = () =>
      h(
        React.Suspense,
        { fallback: h("p", null, "wait") },
        provider([h(Listener, { key: 1 }), h(Last, { key: 2 }), h(Slow, { key: 3, waits })], { key: 1 }),
      );
    await render(shown());
    await open();
    waits = true;
    await render(shown());
    assert.match(text(), /wait/);
    await pass(5_000);
    await say("note", 1);
    waits = false;
    await render(shown());
    assert.match(text(), /"1"/);
    await say("note", 2);
    assert.deepEqual([heard, w.requests.length], [["1", "2"], 1]);
  },
);

each(
  "what Activity hides has no connection, and another one when it is shown",
  async ({ provider, listener, render, open, say, pass, w, h, React }) => {
    const heard = [];
    const Listener = listener(heard);
    const shown = (mode) => h(React.Activity, { mode }, provider(h(Listener)));
    await render(shown("hidden"));
    assert.equal(w.requests.length, 0);
    await render(shown("visible"));
    await open();
    await say("note", 1);
    await render(shown("hidden"));
    await say("note", 2);
    await pass(1_000);
    assert.deepEqual(w.left, NOTHING);
    await render(shown("visible"));
    await open();
    await say("note", 3);
    assert.deepEqual([heard, w.requests.length], [["1", "3"], 2]);
  },
  ["19"],
);

each(
  "what opens streams can be replaced, and is shared by those who give the same",
  async ({ provider, render, w }) => {
    const calls = [];
    const other = (url, options) => (calls.push([url, options.transport]), connect(url, options));
    await render([
      provider(null, { key: 1, connect: other }),
      provider(null, { key: 2, connect: other }),
      provider(null, { key: 3 }),
    ]);
    assert.deepEqual([calls, w.requests.length], [[[URL, "fetch"]], 2]);
  },
);

each("each factory has a provider of its own", async ({ provider, render, open, say, w, h, hooks }) => {
  const inner = hooks.createSidestream();
  const heard = [];
  function Both() {
    hooks.useEvent("note", (data) => heard.push(`outer ${data}`));
    inner.useEvent("note", (data) => heard.push(`inner ${data}`));
    return null;
  }
  await render(provider(h(inner.SidestreamProvider, { url: "/inner", options: { transport: "fetch" } }, h(Both))));
  await open();
  const [first, second] = w.requests;
  await (first === w.request ? second : first).open();
  await say(
    "note",
    1,
    w.requests.find(({ url }) => url.pathname === "/inner"),
  );
  await say(
    "note",
    2,
    w.requests.find(({ url }) => url.pathname === "/events"),
  );
  assert.deepEqual(heard, ["inner 1", "outer 2"]);
});

each(
  "without a URL and a provider there is an error, and with what cannot be as well",
  async ({ provider, render, w, h, React, hooks, forget }) => {
    const errors = [];
    class Boundary extends React.Component {
      state = {};
      static getDerivedStateFromError = () => ({ failed: true });
      componentDidCatch = (error) => errors.push(error.message);
      render() {
        return this.state.failed ? null : this.props.children;
      }
    }
    function Lost() {
      hooks.useSidestream();
      return null;
    }
    await render(h(Boundary, { key: 1 }, h(Lost)));
    await render(h(Boundary, { key: 2 }, provider(null, { options: { transport: "eventsource", headers: {} } })));
    assert.deepEqual([...new Set(errors)], ["no SidestreamProvider", "fetch transport needed"]);
    assert.deepEqual([w.requests.length, w.left], [0, NOTHING]);
    forget();
  },
);

each(
  "callbacks hear nothing of the old connection from the commit on",
  async ({ provider, render, open, h, React }) => {
    const told = [];
    const opened = [];
    let committed = () => {};
    // Its effects come after those of the provider before it.
    function After({ url }) {
      React.useLayoutEffect(() => committed(), [url]);
      return null;
    }
    const catching = (url, options) => (opened.push(options), connect(url, options));
    const shown = (url) => [
      provider(null, {
        key: 1,
        url,
        connect: catching,
        options: { transport: "fetch", onDegraded: () => told.push(url) },
      }),
      h(After, { key: 2, url }),
    ];
    await render(shown("/a"));
    await open();
    opened[0].onDegraded({});
    committed = () => opened[0].onDegraded({});
    await render(shown("/b"));
    assert.deepEqual([told, opened.length], [["/a"], 2]);
  },
);
