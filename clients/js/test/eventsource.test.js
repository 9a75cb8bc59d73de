// The EventSource transport: what is left to the browser, what is not, and the one request that tells why an
// EventSource died.

import assert from "node:assert/strict";
import { test } from "node:test";
import { connect } from "../dist/index.js";
import { NOTHING, settle, world } from "./world.js";

function stream(options = {}) {
  const faults = [];
  const opened = connect("/events", { parse: "text", onError: (fault) => faults.push(fault), ...options });
  return { stream: opened, faults };
}

test("is the default, where nothing needs more", async (t) => {
  const w = world(t);
  stream({ credentials: "include", subjects: ["a.>"] }).stream.close();
  assert.equal(w.source.url.href, "https://example.com/events?subject=a.%3E");
  assert.equal(w.source.withCredentials, true);
  stream().stream.close();
  assert.equal(w.source.withCredentials, false);
  assert.equal(w.requests.length, 0);
  stream({ headers: { a: "b" } }).stream.close();
  stream({ credentials: "omit" }).stream.close();
  assert.equal(w.sources.length, 2);
  assert.throws(() => stream({ headers: { a: "b" }, transport: "eventsource" }), TypeError);
  delete globalThis.EventSource;
  stream().stream.close();
  await settle();
  assert.deepEqual(w.left, NOTHING);
});

test("hears the names that have handlers, also those that come later, and the server's own", async (t) => {
  const w = world(t);
  const heard = [];
  const { stream: s } = stream({ onGap: () => heard.push("gap") });
  s.on("order", (data) => heard.push(data));
  await w.source.connected();
  await w.source.event("order", "1", "e.2.1");
  s.on("late", (data) => heard.push(data));
  await w.source.event("late", "2", "e.3.1");
  await w.source.event("message", "nobody", "e.4.1");
  await w.source.event("sidestream.gap", "{}", "e.5.1");
  assert.deepEqual(heard, ["1", "2", "gap"]);
  assert.equal(s.lastEventId, "e.5.1");
  s.close();
});

test("events that are called open and error are events", async (t) => {
  const w = world(t);
  const heard = [];
  const { stream: s, faults } = stream();
  s.on("open", (data) => heard.push(data));
  s.on("error", (data) => heard.push(data));
  await w.source.connected();
  await w.source.event("open", "1");
  await w.source.event("error", "2");
  assert.deepEqual(heard, ["1", "2"]);
  assert.deepEqual(faults, []);
  assert.equal(w.sources.length, 1);
  await w.source.broke();
  assert.deepEqual(heard, ["1", "2"], "the browser's own error is none");
  assert.equal(faults.length, 1);
  assert.equal(s.lastEventId, "", "and has no id");
  s.close();
});

test("where the server answered, the browser comes back, as the server told it", async (t) => {
  const w = world(t);
  const { stream: s } = stream();
  await w.source.connected({ id: "e.3.1" });
  await w.source.event("sidestream.bye", '{"code":"age","reconnect":2000}', "e.4.1");
  await w.source.broke();
  assert.deepEqual(s.status, {
    state: "waiting",
    attempt: 1,
    lastEventId: "e.4.1",
    reason: { type: "bye", code: "age" },
  });
  await w.pass(20_000);
  await w.source.connected({ id: "e.4.1" });
  assert.equal(s.status.state, "open");
  assert.equal(w.sources.length, 1);
  s.close();
  assert.deepEqual(w.left, NOTHING);
});

test("soft refusals are not open, count, and are left to the browser, up to maxRetries", async (t) => {
  const w = world(t);
  const { stream: s } = stream({ maxRetries: 2 });
  for (const attempt of [1, 2]) {
    await w.source.answered();
    assert.notEqual(s.status.state, "open");
    await w.source.broke();
    assert.deepEqual(s.status, { state: "waiting", attempt, lastEventId: "", reason: { type: "ended" } });
  }
  await w.source.answered();
  await w.source.broke();
  assert.deepEqual(s.status.reason, { type: "retries", last: { type: "ended" } });
  assert.equal(w.sources.length, 1);
  assert.deepEqual(w.left, NOTHING);
});

test("soft refusals for long are left to the browser as well", async (t) => {
  const w = world(t);
  const { stream: s } = stream();
  for (let time = 0; time < 5; time += 1) {
    await w.source.answered();
    await w.source.broke();
    await w.pass(20_000);
  }
  assert.equal(w.sources.length, 1);
  s.close();
});

test("where nobody answers any more, the browser is not left to it", async (t) => {
  const w = world(t);
  w.chance(0);
  const { stream: s } = stream();
  await w.source.connected();
  await w.source.broke();
  assert.equal(w.source.readyState, 0);
  await w.source.broke();
  assert.equal(w.source.readyState, 2);
  await w.pass(0);
  assert.equal(w.sources.length, 2);
  s.close();
});

test("a browser that does not come back is not waited for", async (t) => {
  const w = world(t);
  w.chance(0);
  const { stream: s } = stream();
  await w.source.connected({ id: "e.3.1", heartbeat: 1 });
  await w.source.broke();
  await w.pass(29_999);
  assert.equal(w.sources.length, 1);
  await w.pass(1);
  await w.pass(0);
  assert.equal(w.sources.length, 2);
  assert.equal(w.sources[0].readyState, 2);
  assert.equal(w.source.url.searchParams.get("lastEventId"), "e.3.1");
  s.close();
});

test("a browser is waited for as long as the goodbye says", async (t) => {
  const w = world(t);
  w.chance(0);
  const { stream: s } = stream();
  await w.source.connected({ heartbeat: 1 });
  await w.source.event("sidestream.bye", '{"code":"drain","reconnect":120000}', "e.4.1");
  await w.source.broke();
  await w.pass(149_999);
  assert.equal(w.sources.length, 1);
  await w.pass(1);
  await w.pass(0);
  assert.equal(w.sources.length, 2);
  s.close();
});

test("where nobody answers, waits grow: the browser's own would not", async (t) => {
  const w = world(t);
  w.chance(0.999);
  const { stream: s } = stream();
  for (const wait of [499, 998, 1_997]) {
    await w.source.broke();
    assert.equal(w.source.readyState, 2, "given up");
    const before = w.sources.length;
    await w.pass(wait);
    assert.equal(w.sources.length, before);
    await w.pass(1);
    assert.equal(w.sources.length, before + 1);
  }
  assert.equal(s.status.attempt, 3);
  assert.equal(w.requests.length, 0);
  s.close();
});

test("a dead EventSource is asked after once, and opened anew with its last event ID", async (t) => {
  const w = world(t);
  w.chance(0);
  const { stream: s } = stream({ credentials: "include" });
  await w.source.connected({ id: "e.3.1" });
  await w.source.died();
  assert.equal(w.requests.length, 1);
  assert.equal(w.request.url.href, "https://example.com/events");
  assert.deepEqual(Object.fromEntries(w.request.headers), { accept: "text/event-stream" });
  assert.equal(w.request.credentials, "include");
  await w.request.answer(502);
  await w.request.fail();
  assert.deepEqual(s.status.reason, { type: "refused", status: 502, code: "" });
  await w.pass(0);
  assert.equal(w.source.url.href, "https://example.com/events?lastEventId=e.3.1");
  await w.source.died();
  assert.equal(w.request.url.href, "https://example.com/events?lastEventId=e.3.1");
  await w.request.answer();
  assert.ok(w.request.signal.aborted, "of a stream no more than the head is read");
  assert.equal(w.requests.length, 2);
  await w.pass(0);
  assert.equal(w.sources.length, 3);
  s.close();
});

test("the request for the reason says what is final, and when to come back", async (t) => {
  const w = world(t);
  w.chance(0);
  const { stream: s, faults } = stream();
  await w.source.died();
  await w.request.answer(429, { "retry-after": "9" }, "");
  await w.pass(8_999);
  assert.equal(w.sources.length, 1);
  await w.pass(1);
  assert.equal(w.sources.length, 2);
  await w.source.died();
  await w.request.answer(401, {}, '{"error":{"code":"identity_missing","status":401}}');
  assert.deepEqual(s.status.reason, { type: "refused", status: 401, code: "identity_missing" });
  assert.equal(faults.at(-1).final, true);
  assert.deepEqual(w.left, NOTHING);
});

test("a half-open connection is replaced", async (t) => {
  const w = world(t);
  w.chance(0);
  const { stream: s } = stream();
  await w.source.connected({ heartbeat: 2 });
  await w.pass(4_000);
  await w.source.event("sidestream.heartbeat", '{"time":1}', "e.8.1");
  await w.pass(4_999);
  assert.equal(w.sources.length, 1);
  await w.pass(1);
  await w.pass(0);
  assert.equal(w.sources[0].readyState, 2);
  assert.equal(w.source.url.searchParams.get("lastEventId"), "e.8.1");
  s.close();
});

test("close leaves nothing, also while it is asked why", async (t) => {
  const w = world(t);
  const { stream: s } = stream();
  await w.source.died();
  s.close();
  await settle();
  assert.deepEqual(w.left, NOTHING);
  await w.pass(100_000);
  assert.equal(w.sources.length, 1);
});
