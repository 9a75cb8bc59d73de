// One connection for several tabs by a SharedWorker: what becomes of it when the worker ends, does not answer or cannot
// be asked.

import assert from "node:assert/strict";
import { test } from "node:test";
import { connect } from "../dist/worker.js";
import { Bus, Locks } from "./tabs.js";
import { NOTHING, settle, world } from "./world.js";

let scripts = 0;

/** Tabs and workers of one origin. Each worker runs the package's script anew. */
function origin(t) {
  const w = world(t);
  w.chance(0);
  const locks = new Locks();
  const bus = new Bus();
  const workers = [];
  let present;
  const enter = (name) => {
    globalThis.BroadcastChannel = bus.channel(name);
    Object.defineProperty(globalThis, "navigator", { value: { locks: locks.manager(name) }, configurable: true });
  };
  const navigator = Object.getOwnPropertyDescriptor(globalThis, "navigator");
  const { BroadcastChannel, addEventListener } = globalThis;
  t.after(() => {
    Object.defineProperty(globalThis, "navigator", navigator ?? { value: undefined, configurable: true });
    globalThis.BroadcastChannel = BroadcastChannel;
    delete globalThis.SharedWorker;
  });

  /** A worker, whose script runs until it dies. */
  class Running {
    name = `worker ${workers.length}`;
    tabs = [];
    dead = false;

    async run(tab) {
      this.script ??= this.load();
      const connected = await this.script;
      if (this.mute) return;
      const port = { postMessage: (data) => setImmediate(() => this.dead || tab.hear(structuredClone(data))) };
      const event = Object.assign(new Event("connect"), { ports: [port] });
      connected(event);
      await settle();
      tab.say = (data) => this.dead || port.onmessage?.({ data });
      for (const data of tab.said.splice(0)) tab.say(data);
    }

    async load() {
      let connected;
      // What opened it comes to its end first, in its own globals.
      await settle();
      globalThis.addEventListener = (type, listener) => {
        if (type === "connect") connected = listener;
      };
      const tab = Object.getOwnPropertyDescriptor(globalThis, "navigator");
      enter(this.name);
      await import(`../dist/shared-worker.js?${(scripts += 1)}`);
      Object.defineProperty(globalThis, "navigator", tab);
      globalThis.addEventListener = addEventListener;
      return connected;
    }
  }

  globalThis.SharedWorker = class {
    onerror = null;

    constructor() {
      if (w.unavailable) throw new DOMException("no workers here", "SecurityError");
      if (!present) workers.push((present = new Running()));
      present.mute = w.mute;
      const port = { onmessage: null };
      const tab = { said: [], say: (data) => tab.said.push(data), hear: (data) => port.onmessage?.({ data }) };
      port.postMessage = (data) => tab.say(structuredClone(data));
      this.port = port;
      void present.run(tab);
    }
  };

  const ready = async () => {
    await present?.script;
    await settle();
    await settle();
  };
  return {
    w,
    locks,
    workers,
    async tab(name, options = {}) {
      enter(name);
      const heard = [];
      const states = [];
      const faults = [];
      const stream = connect("/events", {
        key: "alice",
        parse: "text",
        worker: () => new SharedWorker(),
        onState: ({ state }) => states.push(state),
        onError: (fault) => faults.push(fault),
        ...options,
      });
      stream.on("x", (data, { cached }) => heard.push(cached ? `${data} (kept)` : data));
      await ready();
      return { stream, heard, states, faults };
    },
    /** The worker ends, and its connection with it. */
    async end() {
      const ended = present;
      ended.dead = true;
      present = undefined;
      locks.kill(ended.name);
      await settle();
    },
    async come() {
      await w.pass(0);
      await ready();
    },
  };
}

test("when the worker ends, its tabs go on with the next from where each stood", async (t) => {
  const o = origin(t);
  const a = await o.tab("a");
  const b = await o.tab("b");
  await o.w.request.open({ id: "e.1.1" });
  await o.w.request.push("event: x\nid: e.2.1\ndata: 1\n\n");
  assert.deepEqual([a.stream.status.state, b.stream.status.state], ["open", "open"]);
  await o.end();
  for (const { stream, faults } of [a, b]) {
    assert.equal(stream.status.state, "waiting");
    assert.deepEqual(faults.at(-1).reason, { type: "network", message: "the shared worker has ended" });
  }
  await o.come();
  assert.equal(o.workers.length, 2);
  assert.equal(o.w.requests.length, 2, "one connection for both");
  assert.equal(o.w.request.headers.get("last-event-id"), "e.2.1");
  await o.w.request.open({ id: "e.2.1" });
  await o.w.request.push("event: x\nid: e.3.1\ndata: 2\n\n");
  for (const { stream, heard } of [a, b]) {
    assert.deepEqual(heard, ["1", "2"]);
    assert.equal(stream.lastEventId, "e.3.1");
    assert.equal(stream.status.state, "open");
  }
});

test("a tab that comes to the next worker later gets what it missed, as new", async (t) => {
  const o = origin(t);
  const a = await o.tab("a");
  const b = await o.tab("b");
  await o.w.request.open({ id: "e.1.1" });
  await o.w.request.push("event: x\nid: e.2.1\ndata: 1\n\n");
  // The second one takes its time.
  const { random } = Math;
  const chances = [0, 0.9];
  Math.random = () => chances.shift() ?? 0;
  await o.end();
  await o.come();
  Math.random = random;
  await o.w.request.open({ id: "e.2.1" });
  await o.w.request.push("event: x\nid: e.3.1\ndata: 2\n\n");
  const late = [a, b].find(({ stream }) => stream.status.state === "waiting");
  assert.deepEqual(late.heard, ["1"]);
  await o.w.pass(500);
  await o.come();
  assert.deepEqual([a.heard, b.heard], [["1", "2"], ["1", "2"]]);
  assert.equal(o.w.requests.length, 2);
});

test("close between two workers leaves nothing", async (t) => {
  const o = origin(t);
  const a = await o.tab("a");
  await o.w.request.open({ id: "e.1.1" });
  await o.end();
  a.stream.close();
  a.stream.close();
  assert.deepEqual(a.states, ["connecting", "open", "waiting", "closed"]);
  await o.w.pass(1_000_000);
  assert.equal(o.w.requests.length, 1);
  assert.equal(o.workers.length, 1);
});

test("where the next worker cannot be had, each goes on alone from where it stood", async (t) => {
  const o = origin(t);
  const a = await o.tab("a");
  await o.w.request.open({ id: "e.1.1" });
  await o.w.request.push("event: x\nid: e.2.1\ndata: 1\n\n");
  await o.end();
  o.w.unavailable = true;
  await o.come();
  assert.equal(o.w.requests.length, 2);
  assert.equal(o.w.request.headers.get("last-event-id"), "e.2.1");
  await o.w.request.open({ id: "e.2.1" });
  assert.equal(a.stream.status.state, "open");
});

test("a worker that does not answer is told of, and replaced", async (t) => {
  const o = origin(t);
  o.w.mute = true;
  const a = await o.tab("a", { connectTimeout: 4_000 });
  await o.w.pass(3_999);
  assert.deepEqual(a.faults, []);
  await o.w.pass(1);
  await settle();
  assert.deepEqual(a.faults, [{ type: "connection", reason: { type: "timeout" }, final: false }]);
  assert.equal(o.locks.wanted > 0, true, "it leads, or waits for that");
});

test("where locks are refused, each tab has its own connection", async (t) => {
  const o = origin(t);
  o.locks.refused = true;
  for (const without of [[], ["SharedWorker"]]) {
    for (const name of without) delete globalThis[name];
    const a = await o.tab("a");
    await o.w.request.open();
    assert.equal(a.stream.status.state, "open");
    a.stream.close();
  }
  assert.equal(o.w.requests.length, 2);
  assert.deepEqual(o.w.left, NOTHING);
});
