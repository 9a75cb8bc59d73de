// One connection for several tabs without a SharedWorker: who leads, what late tabs get, and that a change of the
// leader costs nothing, also where what the old one said is still on its way.

import assert from "node:assert/strict";
import { test } from "node:test";
import { overChannel } from "../dist/channel.js";
import { shared } from "../dist/shared.js";
import { Bus, Locks } from "./tabs.js";
import { settle, world } from "./world.js";

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
    /** `at` is called with the stream before anything else happens. */
    async tab(name, options = {}, at = () => {}) {
      // What the code takes from its globals is of the tab in which it runs: this one, until the next is opened.
      const enter = () => {
        globalThis.BroadcastChannel = bus.channel(name);
        Object.defineProperty(globalThis, "navigator", { value: { locks: locks.manager(name) }, configurable: true });
      };
      enter();
      const heard = [];
      const statuses = [];
      const faults = [];
      const source = overChannel(shared("/events", options), {
        event: (event) => heard.push(event),
        status: (status) => statuses.push(status),
        fault: (fault) => faults.push(fault),
      });
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
  const { source } = await o.tab("a", {}, ({ close }) => close());
  source.close();
  await settle();
  assert.equal(o.locks.wanted, 0);
  await o.deliver();
  assert.equal(o.w.requests.length, 0);
});

test("different URLs, options and keys are different connections; the same ones are not", () => {
  globalThis.location = { href: "https://example.com/a/b" };
  try {
    const keys = [
      shared("/events", {}),
      shared("/other", {}),
      shared("/events", { key: "alice" }),
      shared("/events", { headers: { authorization: "x" } }),
      shared("/events", { credentials: "include" }),
      shared("/events", { subjects: ["a"] }),
      shared("/events", { lastEventId: "e.1.1" }),
    ].map(({ key }) => key);
    assert.equal(new Set(keys).size, keys.length);
    assert.equal(shared("../events", { parse: "text", onGap() {} }).key, keys[0]);
  } finally {
    delete globalThis.location;
  }
});
