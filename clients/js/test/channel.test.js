// One connection for several tabs without a SharedWorker: who leads, what late tabs get, and that a change of the
// leader costs nothing, also where what the old one said is still on its way.

import assert from "node:assert/strict";
import { test } from "node:test";
import { overChannel } from "../dist/channel.js";
import { shared } from "../dist/shared.js";
import { Bus, Locks } from "./tabs.js";
import { NOTHING, settle, world } from "./world.js";

/** Tabs over one bus, in a world whose requests are of whichever tab leads. */
function origin(t) {
  const w = world(t);
  const bus = new Bus();
  const locks = new Locks();
  const navigator = Object.getOwnPropertyDescriptor(globalThis, "navigator");
  const { BroadcastChannel } = globalThis;
  t.after(() => {
    delete globalThis.navigator;
    if (navigator) Object.defineProperty(globalThis, "navigator", navigator);
    globalThis.BroadcastChannel = BroadcastChannel;
  });
  const deliver = () => bus.deliver(settle);
  return {
    w,
    bus,
    locks,
    deliver,
    /** `at` is called with the stream before anything else happens, `onStatus` with each status. */
    async tab(name, options = {}, { at = () => {}, onStatus = () => {} } = {}) {
      // What the code takes from its globals is of the tab in which it runs: this one, until the next is opened.
      const enter = () => {
        globalThis.BroadcastChannel = bus.channel(name);
        Object.defineProperty(globalThis, "navigator", { value: { locks: locks.manager(name) }, configurable: true });
      };
      enter();
      const heard = [];
      const statuses = [];
      const faults = [];
      let failed = 0;
      const hooks = {
        event: (event) => heard.push(event),
        status: (status) => (statuses.push(status), onStatus(status, source)),
        fault: (fault) => faults.push(fault),
      };
      const source = overChannel(shared("/events", { key: "alice", ...options }), hooks, () => (failed += 1));
      at(source);
      await settle();
      await deliver();
      await settle();
      await deliver();
      return {
        source,
        statuses,
        faults,
        enter,
        get failed() {
          return failed;
        },
        /** The data of the page's own events. */
        get data() {
          return heard
            .filter(({ name }) => !name.startsWith("sidestream."))
            .map(({ data, cached }) => (cached ? `${data} (kept)` : data));
        },
        get names() {
          return heard.map(({ name }) => name);
        },
        get state() {
          return statuses.at(-1)?.state;
        },
        die() {
          bus.kill(name);
          locks.kill(name);
        },
      };
    },
    /** Says something on the connection of whoever leads. */
    async say(text) {
      await w.request.push(text);
      await deliver();
    },
  };
}

test("one connection, and all tabs hear the same", async (t) => {
  const o = origin(t);
  const a = await o.tab("a");
  const b = await o.tab("b");
  await o.w.request.open();
  await o.deliver();
  const c = await o.tab("c");
  assert.deepEqual([a.state, b.state, c.state], ["open", "open", "open"]);
  assert.equal(c.statuses[0].connection, "c1");
  await o.say("id: e.2.1\ndata: 1\n\nid: e.3.1\ndata: 2\n\n");
  for (const tab of [a, b, c]) {
    assert.deepEqual(tab.data, ["1", "2"]);
    assert.equal(tab.source.lastEventId, "e.3.1");
  }
  assert.equal(o.w.requests.length, 1);
});

test("a late tab gets the last of each name, in order, and each once", async (t) => {
  const o = origin(t);
  await o.tab("a");
  await o.w.request.open();
  await o.say("event: x\ndata: x1\n\nevent: y\ndata: y1\n\nevent: x\ndata: x2\n\nevent: sidestream.gap\ndata: {}\n\n");
  const b = await o.tab("b");
  const c = await o.tab("c");
  await o.say("event: y\ndata: y2\n\n");
  assert.deepEqual(b.data, ["y1 (kept)", "x2 (kept)", "y2"]);
  assert.deepEqual(c.data, ["y1 (kept)", "x2 (kept)", "y2"]);
  assert.deepEqual(c.names, ["sidestream.connected", "y", "x", "y"], "of the server's own, what still holds");
});

test("a late tab hears that NATS is away, and not what is over", async (t) => {
  const o = origin(t);
  await o.tab("a");
  await o.w.request.open();
  await o.say("event: sidestream.degraded\ndata: {}\n\n");
  assert.deepEqual((await o.tab("b")).names, ["sidestream.connected", "sidestream.degraded"]);
  await o.say("event: sidestream.ok\ndata: {}\n\n");
  assert.deepEqual((await o.tab("c")).names, ["sidestream.connected"]);
  await o.w.request.end();
  await o.deliver();
  assert.deepEqual((await o.tab("d")).names, []);
});

test("when the leader closes, the next goes on from the last event ID", async (t) => {
  const o = origin(t);
  const a = await o.tab("a");
  const b = await o.tab("b");
  const c = await o.tab("c");
  await o.w.request.open();
  await o.say("id: e.2.1\ndata: 1\n\n");
  b.enter();
  a.source.close();
  await settle();
  assert.ok(o.w.requests[0].signal.aborted);
  await o.deliver();
  await settle();
  assert.equal(o.w.requests.length, 2);
  assert.equal(o.w.request.headers.get("last-event-id"), "e.2.1");
  await o.w.request.open({ id: "e.2.1" });
  await o.say("id: e.3.1\ndata: 2\n\n");
  assert.deepEqual(a.data, ["1"]);
  assert.equal(a.state, "closed");
  for (const tab of [b, c]) {
    assert.deepEqual(tab.data, ["1", "2"]);
    assert.equal(tab.state, "open");
  }
  // The new leader knows what it heard when it was none.
  const d = await o.tab("d");
  assert.deepEqual(d.data, ["2 (kept)"]);
});

test("what a dead leader said before another led counts, and is not asked for again", async (t) => {
  const o = origin(t);
  const a = await o.tab("a");
  const b = await o.tab("b");
  const c = await o.tab("c");
  await o.w.request.open();
  await o.deliver();
  // Said, and not yet heard by anybody when the tab dies.
  await o.w.request.push("id: e.2.1\ndata: 1\n\n");
  b.enter();
  a.die();
  await settle();
  await o.deliver();
  await settle();
  assert.equal(o.w.request.headers.get("last-event-id"), "e.2.1");
  await o.w.request.open({ id: "e.2.1" });
  await o.say("id: e.3.1\ndata: 2\n\n");
  assert.deepEqual(b.data, ["1", "2"]);
  assert.deepEqual(c.data, ["1", "2"]);
});

test("what a dead leader's word was too late for is asked for again, and heard once", async (t) => {
  const o = origin(t);
  const a = await o.tab("a");
  const b = await o.tab("b");
  const c = await o.tab("c");
  await o.w.request.open();
  await o.say("id: e.2.1\ndata: 1\n\n");
  o.bus.late.add("a");
  await o.w.request.push("id: e.3.1\ndata: 2\n\n");
  b.enter();
  a.die();
  await settle();
  await o.deliver();
  await settle();
  assert.equal(o.w.request.headers.get("last-event-id"), "e.2.1");
  // Now it comes, when another leads.
  o.bus.late.clear();
  await o.deliver();
  await o.w.request.open({ id: "e.2.1" });
  await o.say("id: e.3.1\ndata: 2\n\nid: e.4.1\ndata: 3\n\n");
  assert.deepEqual(b.data, ["1", "2", "3"]);
  assert.deepEqual(c.data, ["1", "2", "3"]);
});

test("a tab that comes while nobody leads is welcomed by the next leader", async (t) => {
  const o = origin(t);
  const a = await o.tab("a");
  const b = await o.tab("b");
  await o.w.request.open();
  await o.say("id: e.2.1\ndata: 1\n\n");
  // Its word that it leads is on its way for long.
  o.bus.late.add("b");
  b.enter();
  a.die();
  await settle();
  const c = await o.tab("c");
  assert.equal(c.state, undefined);
  o.bus.late.clear();
  b.enter();
  await o.deliver();
  await settle();
  await o.w.request.open({ id: "e.2.1" });
  await o.say("id: e.3.1\ndata: 2\n\n");
  assert.deepEqual(b.data, ["1", "2"]);
  assert.deepEqual(c.data, ["1 (kept)", "2"]);
});

test("a late tab stands where the stream stands, also when it leads before another event", async (t) => {
  const o = origin(t);
  const a = await o.tab("a");
  await o.w.request.open({ id: "e.1.1" });
  await o.say("event: x\nid: e.2.1\ndata: x1\n\nevent: y\nid: e.3.1\ndata: y1\n\n");
  await o.say("event: sidestream.gap\nid: e.4.1\ndata: {}\n\n");
  const b = await o.tab("b");
  assert.equal(b.source.lastEventId, "e.4.1", "not where the status changed, nor where a kept event stood");
  assert.equal(b.statuses[0].lastEventId, "e.4.1");
  const c = await o.tab("c");
  b.enter();
  a.source.close();
  await settle();
  await o.deliver();
  await settle();
  assert.equal(o.w.request.headers.get("last-event-id"), "e.4.1");
  await o.w.request.open({ id: "e.4.1" });
  await o.say("event: x\nid: e.5.1\ndata: x2\n\n");
  assert.deepEqual(b.data, ["x1 (kept)", "y1 (kept)", "x2"]);
  assert.deepEqual(c.data, ["x1 (kept)", "y1 (kept)", "x2"]);
});

test("a late tab is told that the last values have been sent, after those there are", async (t) => {
  const o = origin(t);
  await o.tab("a");
  await o.w.request.open();
  await o.say("event: x\ndata: x1\n\nevent: sidestream.synced\ndata: {}\n\nevent: x\ndata: x2\n\n");
  assert.deepEqual((await o.tab("b")).names, ["sidestream.connected", "x", "sidestream.synced"]);
  await o.w.request.end();
  await o.deliver();
  assert.deepEqual((await o.tab("c")).names, ["x"]);
});

test("who closes a stream that begins to lead leaves nothing", async (t) => {
  const o = origin(t);
  const onStatus = ({ state }, source) => state === "connecting" && source.close();
  const a = await o.tab("a", {}, { onStatus });
  assert.deepEqual(
    a.statuses.map(({ state }) => state),
    ["connecting", "closed"],
  );
  assert.equal(o.w.requests.length, 0);
  assert.equal(o.locks.wanted, 0);
  assert.deepEqual(o.w.left, NOTHING);
});

test("where locks are refused, it says so, once, and is over", async (t) => {
  const o = origin(t);
  o.locks.refused = true;
  const a = await o.tab("a");
  assert.equal(a.failed, 1);
  a.source.close();
  assert.deepEqual(a.statuses, []);
  assert.deepEqual(o.w.left, NOTHING);
});

test("a leader that does not answer is not waited for by who comes", async (t) => {
  const o = origin(t);
  const options = { connectTimeout: 4_000 };
  await o.tab("a", options);
  await o.w.request.open({ heartbeat: 100 });
  o.bus.late.add("a");
  const b = await o.tab("b", options);
  await o.w.pass(3_999);
  assert.equal(b.failed, 0);
  await o.w.pass(1);
  assert.equal(b.failed, 1);
  assert.deepEqual(b.faults, [{ type: "connection", reason: { type: "timeout" }, final: false }]);
  assert.equal(o.locks.wanted, 1, "it does not wait for the lock either");
});

test("only the first welcome counts", async (t) => {
  const o = origin(t);
  await o.tab("a");
  await o.w.request.open();
  await o.say("event: x\nid: e.2.1\ndata: x1\n\n");
  const b = await o.tab("b");
  // Who asked twice, as a new leader came, is answered twice.
  const leader = new (o.bus.channel("a"))(o.bus.name);
  leader.postMessage(o.bus.last("news"));
  await o.deliver();
  assert.deepEqual(b.data, ["x1 (kept)"]);
  assert.equal(b.statuses.length, 1);
});

test("of a thousand names and more, those longest unheard are forgotten", async (t) => {
  const o = origin(t);
  await o.tab("a");
  await o.w.request.open();
  const names = Array.from({ length: 1_001 }, (_, number) => `n${number}`);
  await o.say(names.map((name) => `event: ${name}\ndata: ${name}\n\n`).join(""));
  const { names: kept } = await o.tab("b");
  assert.deepEqual(kept, names.slice(1));
});

test("a final refusal ends all tabs, and nobody asks again", async (t) => {
  const o = origin(t);
  const tabs = [await o.tab("a"), await o.tab("b"), await o.tab("c")];
  await o.w.request.answer(401, {}, "{}");
  await o.deliver();
  for (const { statuses, faults } of tabs) {
    assert.deepEqual(statuses.at(-1).reason, { type: "refused", status: 401, code: "" });
    assert.equal(faults.at(-1).final, true);
  }
  await o.w.pass(1_000_000);
  assert.equal(o.w.requests.length, 1);
  assert.equal(o.locks.wanted, 0);
});

test("a tab that only listens leaves the others alone", async (t) => {
  const o = origin(t);
  const a = await o.tab("a");
  const b = await o.tab("b");
  await o.w.request.open();
  await o.deliver();
  b.source.close();
  b.source.close();
  await o.say("data: 1\n\n");
  assert.equal(b.state, "closed");
  assert.equal(o.locks.wanted, 1, "it does not wait for the lock");
  assert.deepEqual(b.data, []);
  assert.deepEqual(a.data, ["1"]);
  a.source.close();
  await settle();
  assert.equal(o.locks.wanted, 0);
  assert.deepEqual(o.w.left, { timers: 0, listeners: 0, open: 0, alive: 0 });
});

test("a tab that closes at once holds nothing", async (t) => {
  const o = origin(t);
  const { source } = await o.tab("a", {}, { at: ({ close }) => close() });
  source.close();
  await settle();
  assert.equal(o.locks.wanted, 0);
  await o.deliver();
  assert.equal(o.w.requests.length, 0);
});

test("without a key, or with headers that cannot be said to others, nothing is shared", () => {
  globalThis.location = { href: "https://example.com/a/b" };
  try {
    for (const key of [undefined, "", 7]) assert.throws(() => shared("/events", { key }), TypeError);
    assert.throws(() => shared("/events", { key: "alice", headers: () => ({}) }), TypeError);
  } finally {
    delete globalThis.location;
  }
});

test("different URLs, options and keys are different connections; the same ones are not", () => {
  globalThis.location = { href: "https://example.com/a/b" };
  const key = "alice";
  try {
    const keys = [
      shared("/events", { key }),
      shared("/other", { key }),
      shared("/events", { key: "bob" }),
      shared("/events", { key, headers: { authorization: "x" } }),
      shared("/events", { key, credentials: "include" }),
      shared("/events", { key, subjects: ["a"] }),
      shared("/events", { key, lastEventId: "e.1.1" }),
    ].map(({ key }) => key);
    assert.equal(new Set(keys).size, keys.length);
    assert.equal(shared("../events", { key, parse: "text", onGap() {} }).key, keys[0]);
  } finally {
    delete globalThis.location;
  }
});
