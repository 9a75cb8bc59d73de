// Handlers, parsing, the last event of each name, and the status as others watch it.

import assert from "node:assert/strict";
import { test } from "node:test";
import { face } from "../dist/face.js";
import { connect } from "../dist/index.js";
import { settle, world } from "./world.js";

/** An open stream, and what it was told to report. */
async function open(t, options = {}) {
  const w = world(t);
  const faults = [];
  const stream = connect("/events", { transport: "fetch", onError: (fault) => faults.push(fault), ...options });
  t.after(() => stream.close());
  await settle();
  await w.request.open();
  const say = (text) => w.request.push(text);
  return { w, stream, faults, say };
}

test("a handler gets parsed data and the event", async (t) => {
  const { stream, say } = await open(t);
  const heard = [];
  stream.on("order", (...args) => heard.push(args));
  await say('event: order\nid: e.2.1\ndata: {"id":\ndata: 7}\n\n');
  const event = { name: "order", data: '{"id":\n7}', lastEventId: "e.2.1" };
  assert.deepEqual(heard, [[{ id: 7 }, event]]);
});

test("data are JSON, text, or what the page makes of them", async (t) => {
  const text = await open(t, { parse: "text" });
  const heard = [];
  text.stream.on("message", (data) => heard.push(data));
  text.stream.on("sidestream.heartbeat", (data) => heard.push(data));
  await text.say('data: {\n\nevent: sidestream.heartbeat\ndata: {"time":5}\n\n');
  assert.deepEqual(heard, ["{", { time: 5 }], "the server's own are always JSON");
});

test("a parser of the page's", async (t) => {
  const { stream, say } = await open(t, { parse: ({ name, data }) => `${name}:${data}` });
  const heard = [];
  stream.on("message", (data) => heard.push(data));
  await say("data: x\n\n");
  assert.deepEqual(heard, ["message:x"]);
});

test("what cannot be parsed goes to onError, and the stream goes on", async (t) => {
  const { stream, say, faults } = await open(t);
  const heard = [];
  stream.on("message", (data) => heard.push(data));
  await say("id: e.2.1\ndata: {\n\nid: e.3.1\ndata: 1\n\nevent: unheard\ndata: {\n\n");
  assert.deepEqual(heard, [1]);
  assert.equal(faults.length, 1);
  assert.equal(faults[0].type, "parse");
  assert.ok(faults[0].error instanceof SyntaxError);
  assert.deepEqual(faults[0].event, { name: "message", data: "{", lastEventId: "e.2.1" });
  assert.equal(stream.status.state, "open");
});

test("handlers come and go while an event is handled", async (t) => {
  const { stream, say } = await open(t);
  const heard = [];
  const late = (data) => heard.push(`late ${data}`);
  const offFirst = stream.on("message", (data) => {
    heard.push(`first ${data}`);
    offFirst();
    offSecond();
    stream.on("message", late);
  });
  const offSecond = stream.on("message", (data) => heard.push(`second ${data}`));
  stream.on("message", (data) => heard.push(`third ${data}`));
  await say("data: 1\n\ndata: 2\n\n");
  assert.deepEqual(heard, ["first 1", "third 1", "third 2", "late 2"]);
});

test("the same handler twice is two, each with its own end", async (t) => {
  const { stream, say } = await open(t);
  let calls = 0;
  const handler = () => (calls += 1);
  const off = stream.on("message", handler);
  stream.on("message", handler);
  await say("data: 1\n\n");
  assert.equal(calls, 2);
  off();
  off();
  await say("data: 1\n\n");
  assert.equal(calls, 3);
});

test("a handler that throws stops nothing", async (t) => {
  const { stream, say, faults } = await open(t);
  const heard = [];
  const error = new Error("of the page");
  stream.on("message", () => {
    throw error;
  });
  stream.on("message", (data) => heard.push(data));
  await say("data: 1\n\ndata: 2\n\n");
  assert.deepEqual(heard, [1, 2]);
  assert.deepEqual(faults, [
    { type: "handler", error },
    { type: "handler", error },
  ]);
});

test("callbacks and listeners that throw stop nothing, and an onError that throws neither", async (t) => {
  const reported = [];
  globalThis.reportError = (error) => reported.push(error.message);
  t.after(() => delete globalThis.reportError);
  const thrower = (text) => () => {
    throw new Error(text);
  };
  const options = {
    onOpen: thrower("open"),
    onState: thrower("state"),
    onError: ({ error }) => thrower(`error of ${error.message}`)(),
  };
  const { stream, say } = await open(t, options);
  stream.subscribe(thrower("listener"));
  const heard = [];
  stream.on("message", (data) => heard.push(data));
  await say("data: 1\n\n");
  stream.close();
  assert.deepEqual(heard, [1]);
  const expected = ["state", "open", "state", "listener"].map((text) => `error of ${text}`);
  assert.deepEqual(reported, expected);
});

test("without onError, what the page threw is reported, and the network is not", async (t) => {
  const reported = [];
  globalThis.reportError = (error) => reported.push(error.message);
  t.after(() => delete globalThis.reportError);
  const { w, stream, say } = await open(t, { onError: undefined });
  stream.on("message", () => {
    throw new Error("of the page");
  });
  await say("data: 1\n\n");
  await w.request.end();
  assert.deepEqual(reported, ["of the page"]);
});

test("the server's own events reach who names them, and the callbacks", async (t) => {
  const told = [];
  const tell = (what) => (data) => told.push([what, data]);
  const callbacks = {
    onOpen: tell("open"),
    onGap: tell("gap"),
    onBye: tell("bye"),
    onDegraded: tell("degraded"),
    onOk: tell("ok"),
    onSynced: tell("synced"),
  };
  const { stream, say } = await open(t, callbacks);
  const heard = [];
  stream.on("message", (data) => heard.push(data));
  const gap = { stream: "EVENTS", after: 4, next: 9, reason: "retention" };
  for (const [name, data] of [
    ["gap", gap],
    ["degraded", {}],
    ["ok", {}],
    ["synced", {}],
    ["heartbeat", { time: 1 }],
    ["news", {}],
    ["bye", { code: "age", reconnect: 9 }],
  ]) {
    await say(`event: sidestream.${name}\ndata: ${JSON.stringify(data)}\n\n`);
  }
  assert.deepEqual(told, [
    ["open", { connection: "c1", resume: "new", heartbeat: 15 }],
    ["gap", gap],
    ["degraded", {}],
    ["ok", {}],
    ["synced", {}],
    ["bye", { code: "age", reconnect: 9 }],
  ]);
  assert.deepEqual(heard, []);
});

test("the last event of a name waits for who comes late", async (t) => {
  const { stream, say } = await open(t);
  assert.equal(stream.last("order"), undefined);
  stream.on("order", () => {})();
  await say('event: order\nid: e.2.1\ndata: {"id":1}\n\n');
  const last = stream.last("order");
  assert.deepEqual(last, { data: { id: 1 }, event: { name: "order", data: '{"id":1}', lastEventId: "e.2.1" } });
  await say("data: 1\n\n");
  assert.equal(stream.last("order"), last, "the same object until the next");
  await say('event: order\nid: e.3.1\ndata: {"id":2}\n\n');
  assert.deepEqual(stream.last("order").data, { id: 2 });
});

test("the status is the same object until it changes, and listeners hear of each change", async (t) => {
  const { w, stream, say } = await open(t);
  const seen = [];
  const off = stream.subscribe(() => seen.push(stream.status));
  const before = stream.status;
  await say("data: 1\n\n");
  assert.equal(stream.status, before);
  assert.deepEqual(seen, []);
  await w.request.end();
  off();
  stream.close();
  assert.deepEqual(
    seen.map(({ state }) => state),
    ["waiting"],
  );
  assert.equal(seen[0].attempt, 1);
});

test("after the end nobody hears anything, not even of the same event", async (t) => {
  const { stream, say } = await open(t, { parse: "text" });
  const heard = [];
  stream.on("message", (data) => {
    heard.push(data);
    stream.close();
  });
  stream.on("message", (data) => heard.push(`again ${data}`));
  await say("data: 1\n\ndata: 2\n\n");
  assert.deepEqual(heard, ["1"]);
});

test("a source that goes on after its end is not heard, nor what it says parsed", () => {
  const faults = [];
  let hooks;
  const end = () => hooks.status({ state: "closed", attempt: 0, lastEventId: "" });
  const stream = face({ onError: (fault) => faults.push(fault) }, (given) => {
    hooks = given;
    return { lastEventId: "", hear() {}, close: end };
  });
  stream.on("message", () => {});
  stream.close();
  hooks.event({ name: "message", data: "{", lastEventId: "" });
  assert.deepEqual(faults, []);
  assert.equal(stream.last("message"), undefined);
});

test("callbacks may use the stream that they are of, from the first on", async (t) => {
  const w = world(t);
  const faults = [];
  const seen = [];
  const onError = (fault) => faults.push(fault);
  const stream = connect("/events", { transport: "fetch", onError, onState: () => seen.push(stream.status.state) });
  await settle();
  await w.request.open();
  stream.close();
  assert.deepEqual(seen, ["open", "closed"]);
  assert.deepEqual(faults, []);
});
