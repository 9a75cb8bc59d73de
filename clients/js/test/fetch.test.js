// The fetch transport and the state machine: what is asked, what an answer means, when the next attempt comes, and
// what is left behind.

import assert from "node:assert/strict";
import { getEventListeners } from "node:events";
import { test } from "node:test";
import { connect } from "../dist/index.js";
import { NOTHING, settle, world } from "./world.js";

/** A stream by fetch whose faults are kept. */
function stream(options = {}) {
  const faults = [];
  const opened = connect("/events", {
    transport: "fetch",
    parse: "text",
    onError: (fault) => faults.push(fault),
    ...options,
  });
  return { stream: opened, faults };
}

test("asks for a stream as EventSource does, with headers of the page's", async (t) => {
  const w = world(t);
  let tokens = 0;
  const headers = async () => ({ authorization: `Bearer ${(tokens += 1)}` });
  const { stream: s } = stream({ headers, credentials: "include", lastEventId: "e.1.1", subjects: ["a.>", "b.*"] });
  await settle();
  assert.equal(w.request.url.href, "https://example.com/events?subject=a.%3E&subject=b.*");
  const sent = Object.fromEntries(w.request.headers);
  assert.deepEqual(sent, { accept: "text/event-stream", authorization: "Bearer 1", "last-event-id": "e.1.1" });
  assert.equal(w.request.credentials, "include");
  assert.equal(w.request.cache, "no-store");
  await w.request.fail();
  await w.pass(500);
  assert.equal(w.request.headers.get("authorization"), "Bearer 2", "headers are asked for anew");
  s.close();
});

test("is open with the first event, not with the head", async (t) => {
  const w = world(t);
  const { stream: s } = stream();
  assert.deepEqual(s.status, { state: "connecting", attempt: 0, lastEventId: "" });
  await settle();
  await w.request.answer();
  assert.equal(s.status.state, "connecting");
  await w.request.connected({ id: "e.5.1" });
  assert.deepEqual(s.status, { state: "open", attempt: 0, lastEventId: "e.5.1", connection: "c1" });
  s.close();
  assert.deepEqual(s.status, { state: "closed", attempt: 0, lastEventId: "e.5.1", reason: { type: "closed" } });
  await settle();
  assert.deepEqual(w.left, NOTHING);
});

for (const status of [204, 400, 401, 403, 404, 405, 406, 410, 421, 301]) {
  test(`${status} is final, with its reason`, async (t) => {
    const w = world(t);
    const { stream: s, faults } = stream();
    await settle();
    await w.request.answer(status, {}, JSON.stringify({ error: { code: "some_code", status } }));
    const reason = { type: "refused", status, code: status === 204 ? "" : "some_code" };
    assert.equal(s.status.state, "closed");
    assert.deepEqual(s.status.reason, reason);
    assert.deepEqual(faults, [{ type: "connection", reason, final: true }]);
    assert.deepEqual(w.left, NOTHING);
    await w.pass(100_000);
    assert.equal(w.requests.length, 1);
  });
}

for (const status of [408, 425, 429, 500, 502, 503, 504]) {
  test(`${status} is tried again`, async (t) => {
    const w = world(t);
    const { stream: s, faults } = stream();
    await settle();
    await w.request.answer(status, {}, "<html>");
    assert.equal(s.status.state, "waiting");
    assert.deepEqual(faults, [{ type: "connection", reason: { type: "refused", status, code: "" }, final: false }]);
    await w.pass(500);
    await w.request.open();
    assert.equal(s.status.state, "open");
    s.close();
  });
}

test("a page that is no event stream is final", async (t) => {
  const w = world(t);
  const { stream: s } = stream();
  await settle();
  await w.request.answer(200, { "content-type": "text/html; charset=utf-8" });
  assert.deepEqual(s.status.reason, { type: "content-type", contentType: "text/html; charset=utf-8" });
  assert.deepEqual(w.left, NOTHING);
});

test("a content type with parameters, and in capitals, is an event stream", async (t) => {
  const w = world(t);
  const { stream: s } = stream();
  await settle();
  await w.request.answer(200, { "content-type": "Text/Event-Stream ; charset=utf-8" });
  await w.request.connected();
  assert.equal(s.status.state, "open");
  s.close();
});

for (const [what, value] of [
  ["in seconds", "7"],
  ["as a date", () => new Date(Date.now() + 7_000).toUTCString()],
]) {
  test(`Retry-After ${what} is respected`, async (t) => {
    const w = world(t);
    w.chance(0);
    const { stream: s } = stream();
    await settle();
    await w.request.answer(503, { "retry-after": typeof value === "string" ? value : value() }, "");
    await w.pass(5_900);
    assert.equal(w.requests.length, 1);
    await w.pass(1_100);
    assert.equal(w.requests.length, 2);
    s.close();
  });
}

test("on top of what the server asks of many, chance keeps them apart", async (t) => {
  const w = world(t);
  w.chance(0.5);
  const { stream: s } = stream();
  await settle();
  await w.request.answer(503, { "retry-after": "7" }, "");
  await w.pass(7_249);
  assert.equal(w.requests.length, 1);
  await w.pass(1);
  assert.equal(w.requests.length, 2);
  s.close();
});

test("a soft refusal's Retry-After is respected, rather than its retry", async (t) => {
  const w = world(t);
  w.chance(0);
  const { stream: s } = stream();
  await settle();
  await w.request.answer(200, { "sidestream-refused": "limit", "retry-after": "7" });
  await w.request.push("retry: 1000\n");
  await w.request.end();
  await w.pass(6_999);
  assert.equal(w.requests.length, 1);
  await w.pass(1);
  assert.equal(w.requests.length, 2);
  s.close();
});

test("a soft refusal is not open, counts, and is told when to come back", async (t) => {
  const w = world(t);
  w.chance(0);
  const { stream: s, faults } = stream();
  await settle();
  await w.request.answer(200, { "sidestream-refused": "drain" });
  await w.request.push("retry: 4000\n");
  await w.request.end();
  const reason = { type: "refused", status: 200, code: "drain" };
  assert.deepEqual(s.status, { state: "waiting", attempt: 1, lastEventId: "", reason });
  assert.deepEqual(faults, [{ type: "connection", reason, final: false }]);
  await w.pass(3_999);
  assert.equal(w.requests.length, 1);
  await w.pass(1);
  assert.equal(w.requests.length, 2);
  s.close();
});

test("waits grow to the cap, at random from nothing on", async (t) => {
  const w = world(t);
  const { stream: s } = stream({ backoff: { min: 100, max: 1_000 } });
  for (const [chance, wait] of [
    [0.999, 99.9],
    [0.999, 199.8],
    [0, 0],
    [0.5, 400],
    [0.999, 999],
    [0.5, 500],
    [0.999, 999],
  ]) {
    await settle();
    w.chance(chance);
    const before = w.requests.length;
    await w.request.fail();
    if (wait > 1) {
      await w.pass(Math.floor(wait) - 1);
      assert.equal(w.requests.length, before, `too early, for ${chance}`);
    }
    await w.pass(2);
    assert.equal(w.requests.length, before + 1, `too late, for ${chance}`);
  }
  s.close();
});

test("the server's retry is the least that is waited", async (t) => {
  const w = world(t);
  w.chance(0);
  const { stream: s } = stream();
  await settle();
  await w.request.open({ retry: 3_000 });
  await w.request.end();
  for (let attempt = 1; attempt < 4; attempt += 1) {
    assert.equal(w.requests.length, attempt);
    await w.pass(2_999);
    assert.equal(w.requests.length, attempt);
    await w.pass(1);
    assert.equal(w.requests.length, attempt + 1);
    await w.request.fail();
  }
  s.close();
});

test("a goodbye says when to come back, once, and why", async (t) => {
  const w = world(t);
  w.chance(0);
  const byes = [];
  const { stream: s } = stream({ onBye: (bye) => byes.push(bye) });
  await settle();
  await w.request.open({ retry: 1_000 });
  await w.request.push('event: sidestream.bye\nid: e.9.1\ndata: {"code":"drain","reconnect":5000}\n\n');
  await w.request.end();
  assert.deepEqual(byes, [{ code: "drain", reconnect: 5000 }]);
  assert.deepEqual(s.status, {
    state: "waiting",
    attempt: 1,
    lastEventId: "e.9.1",
    reason: { type: "bye", code: "drain" },
  });
  await w.pass(4_999);
  assert.equal(w.requests.length, 1);
  await w.pass(1);
  assert.equal(w.request.headers.get("last-event-id"), "e.9.1");
  await w.request.fail();
  assert.equal(s.status.reason.type, "network");
  await w.pass(1_000);
  assert.equal(w.requests.length, 3);
  s.close();
});

test("a goodbye that asks for nothing leaves it at retry", async (t) => {
  const w = world(t);
  w.chance(0);
  const { stream: s } = stream();
  await settle();
  await w.request.open({ retry: 1_000 });
  for (const data of ['{"code":"age","reconnect":0}', '{"code":"age"}']) {
    const before = w.requests.length;
    await w.request.push(`event: sidestream.bye\ndata: ${data}\n\n`);
    await w.request.end();
    await w.pass(999);
    assert.equal(w.requests.length, before);
    await w.pass(1);
    assert.equal(w.requests.length, before + 1);
    await w.request.open({ retry: 1_000 });
  }
  s.close();
});

test("attempts begin anew only after a connection that held", async (t) => {
  const w = world(t);
  w.chance(0);
  const { stream: s } = stream();
  await settle();
  await w.request.fail();
  await w.pass(0);
  await w.request.open();
  await w.pass(4_999);
  await w.request.end();
  assert.equal(s.status.attempt, 2, "did not hold");
  await w.pass(0);
  await w.request.open();
  await w.pass(5_000);
  await w.request.end();
  assert.equal(s.status.attempt, 1, "held");
  await w.pass(0);
  await w.request.open();
  await w.pass(4_999);
  await w.request.end();
  assert.equal(s.status.attempt, 2, "did not hold, late as it is");
  s.close();
});

test("gives up after maxRetries, with the last reason", async (t) => {
  const w = world(t);
  w.chance(0);
  const { stream: s, faults } = stream({ maxRetries: 2 });
  for (let attempt = 0; attempt < 3; attempt += 1) {
    await settle();
    await w.request.answer(503);
    await w.request.fail();
    await w.pass(0);
  }
  assert.equal(w.requests.length, 3);
  assert.equal(s.status.state, "closed");
  assert.deepEqual(s.status.reason, { type: "retries", last: { type: "refused", status: 503, code: "" } });
  assert.deepEqual(
    faults.map((fault) => fault.final),
    [false, false, true],
  );
  assert.deepEqual(w.left, NOTHING);
});

test("a connection without a sign of life is replaced, from the last event ID on", async (t) => {
  const w = world(t);
  w.chance(0);
  const { stream: s, faults } = stream();
  await settle();
  await w.request.open({ heartbeat: 10 });
  await w.pass(24_999);
  assert.equal(s.status.state, "open");
  await w.request.push(":\n");
  await w.pass(24_999);
  assert.equal(s.status.state, "open", "a comment is a sign of life");
  await w.request.push("id: e.7.1\ndata: x\n\n");
  await w.pass(24_999);
  assert.equal(s.status.state, "open", "an event is one");
  await w.pass(1);
  assert.equal(faults.at(-1).reason.type, "timeout");
  assert.ok(w.requests[0].signal.aborted);
  assert.equal(w.request.headers.get("last-event-id"), "e.7.1");
  s.close();
});

test("an attempt that is not answered is given up", async (t) => {
  const w = world(t);
  w.chance(0);
  const { stream: s, faults } = stream({ connectTimeout: 4_000 });
  await w.pass(3_999);
  assert.deepEqual(faults, []);
  await w.pass(1);
  assert.equal(faults[0].reason.type, "timeout");
  assert.equal(w.requests.length, 2);
  s.close();
});

test("an attempt has its time to an event, whatever else comes meanwhile", async (t) => {
  const w = world(t);
  w.chance(0);
  const { stream: s, faults } = stream({ connectTimeout: 4_000 });
  await settle();
  await w.request.answer();
  for (let second = 1; second < 4; second += 1) {
    await w.pass(1_000);
    await w.request.push(":\n\nid: e.1.1\n\n");
  }
  assert.deepEqual(faults, []);
  await w.pass(1_000);
  assert.equal(faults[0].reason.type, "timeout");
  s.close();
});

test("an id in any script is sent as EventSource sends it, in UTF-8", async (t) => {
  const w = world(t);
  w.chance(0);
  const { stream: s } = stream();
  await settle();
  await w.request.open();
  await w.request.push("id: é日\ndata: x\n\n");
  await w.request.end();
  await w.pass(0);
  assert.equal(w.requests.length, 2);
  const sent = w.request.headers.get("last-event-id");
  assert.equal(Buffer.from(sent, "latin1").toString("utf8"), "é日");
  s.close();
});

test("silence is not watched where the server told no heartbeat, or the page wants it not", async (t) => {
  const w = world(t);
  const { stream: s } = stream();
  await settle();
  await w.request.answer();
  await w.request.push("data: x\n\n");
  await w.pass(10_000_000);
  assert.equal(s.status.state, "open");
  s.close();
  const { stream: other } = stream({ heartbeatTimeout: 0 });
  await settle();
  await w.request.open();
  await w.pass(10_000_000);
  assert.equal(other.status.state, "open");
  other.close();
});

test("waits while the network is away, and comes back at once", async (t) => {
  const w = world(t);
  w.chance(0.999);
  const { stream: s, faults } = stream();
  await settle();
  await w.request.open({ id: "e.3.1" });
  await w.network("offline");
  assert.deepEqual(s.status.reason, { type: "offline" });
  assert.ok(w.request.signal.aborted);
  await w.pass(10_000_000);
  assert.equal(w.requests.length, 1);
  await w.network("online");
  await w.pass(0);
  assert.equal(w.requests.length, 2);
  assert.equal(w.request.headers.get("last-event-id"), "e.3.1");
  await w.request.fail();
  await w.network("online");
  await w.pass(0);
  assert.equal(w.requests.length, 3, "also where it waits for an attempt");
  await w.request.open();
  await w.network("online");
  assert.equal(w.requests.length, 3, "an open connection is left alone");
  assert.equal(faults.length, 1);
  s.close();
});

test("a network that comes back does not skip what the server asked for", async (t) => {
  const w = world(t);
  w.chance(0);
  const { stream: s } = stream();
  await settle();
  await w.request.answer(503, { "retry-after": "3600" }, "");
  await w.network("online");
  await w.pass(1_000_000);
  await w.network("offline");
  await w.pass(1_000_000);
  await w.network("online");
  await w.pass(1_599_999);
  assert.equal(w.requests.length, 1);
  await w.pass(1);
  assert.equal(w.requests.length, 2);
  s.close();
});

test("a goodbye before the network went is not the reason of a later end", async (t) => {
  const w = world(t);
  w.chance(0);
  const { stream: s } = stream();
  await settle();
  await w.request.open();
  await w.request.push('event: sidestream.bye\ndata: {"code":"drain","reconnect":5000}\n\n');
  await w.network("offline");
  await w.network("online");
  await w.pass(4_999);
  assert.equal(w.requests.length, 1, "when to come back still counts");
  await w.pass(1);
  await w.request.open();
  await w.request.end();
  assert.deepEqual(s.status.reason, { type: "ended" });
  s.close();
});

test("nothing of a connection that was given up is heard", async (t) => {
  const w = world(t);
  w.chance(0);
  const heard = [];
  const { stream: s } = stream();
  s.on("message", (data) => heard.push(data));
  await settle();
  await w.request.open();
  const first = w.request;
  s.on("stop", () => s.close());
  await first.push("data: 1\n\nevent: stop\ndata:\n\ndata: 2\n\nid: late\nretry: 5\n\n");
  assert.deepEqual(heard, ["1"]);
  assert.equal(s.lastEventId, "e.1.1");
  assert.deepEqual(w.left, NOTHING);
});

test("ids are kept across every end, also those of events that nobody hears and of blocks that are none", async (t) => {
  const w = world(t);
  w.chance(0);
  const heard = [];
  const { stream: s } = stream();
  s.on("message", (data) => heard.push(data));
  await settle();
  await w.request.answer();
  await w.request.push("id: e.0.1\n\n");
  assert.equal(s.status.state, "connecting", "a block without data opens nothing");
  await w.request.connected();
  await w.request.push("event: unheard\nid: e.2.1\ndata: x\n\n");
  assert.equal(s.lastEventId, "e.2.1");
  await w.request.push("id: e.3.1\n\nid: e.4.1\n");
  await w.request.fail();
  await w.pass(0);
  assert.equal(w.request.headers.get("last-event-id"), "e.3.1");
  assert.deepEqual(heard, []);
  s.close();
});

test("close leaves nothing, whatever the state", async (t) => {
  const w = world(t);
  const states = {
    connecting: async () => {},
    answered: () => w.request.answer(),
    open: () => w.request.open(),
    waiting: () => w.request.fail(),
    offline: () => w.network("offline"),
    "reading a refusal": () => w.request.answer(503),
  };
  for (const [what, reach] of Object.entries(states)) {
    const { stream: s } = stream();
    await settle();
    await reach();
    s.close();
    s.close();
    await settle();
    const waiting = w.requests.filter((request) => !request.signal.aborted && what !== "waiting").length;
    assert.deepEqual({ ...w.left, open: waiting }, NOTHING, what);
    const sent = w.requests.length;
    await w.pass(1_000_000);
    assert.equal(w.requests.length, sent, what);
    assert.equal(s.status.reason.type, "closed", what);
  }
});

test("a signal closes, and one that has aborted opens nothing", async (t) => {
  const w = world(t);
  const abort = new AbortController();
  const { stream: s } = stream({ signal: abort.signal });
  await settle();
  await w.request.open();
  abort.abort();
  assert.equal(s.status.state, "closed");
  await settle();
  assert.deepEqual(w.left, NOTHING);
  assert.throws(() => stream({ signal: abort.signal }), { name: "AbortError" });
  assert.equal(w.requests.length, 1);
});

test("a status callback may close", async (t) => {
  for (const [at, attempt] of [
    ["open", 0],
    ["waiting", 1],
    ["connecting", 1],
  ]) {
    await t.test(`${at}, after ${attempt} failed`, async (t) => {
      const w = world(t);
      w.chance(0);
      const abort = new AbortController();
      const opened = [];
      const onState = (status) => status.state === at && status.attempt === attempt && abort.abort();
      const { stream: s } = stream({ signal: abort.signal, onState, onOpen: (connected) => opened.push(connected) });
      await settle();
      if (attempt || at === "open") await w.request.open();
      if (attempt) await w.request.end();
      await w.pass(0);
      assert.equal(s.status.state, "closed");
      assert.equal(w.requests.length, 1);
      assert.equal(opened.length, attempt, "nothing is told after the end");
      assert.deepEqual(w.left, NOTHING);
      assert.deepEqual(getEventListeners(abort.signal, "abort"), []);
    });
  }
});

test("what gives headers may close, while it is opened", async (t) => {
  const w = world(t);
  const abort = new AbortController();
  const headers = () => (abort.abort(), {});
  const { stream: s } = stream({ signal: abort.signal, headers });
  assert.equal(s.status.state, "closed");
  await settle();
  assert.deepEqual(w.left, NOTHING);
});

test("a refusal whose body never ends is given up", async (t) => {
  const w = world(t);
  const { stream: s, faults } = stream({ connectTimeout: 4_000 });
  await settle();
  await w.request.answer(503);
  await w.pass(4_000);
  assert.equal(faults[0].reason.type, "timeout");
  s.close();
});

test("onError may close", async (t) => {
  const w = world(t);
  const abort = new AbortController();
  const states = [];
  const { stream: s } = stream({
    signal: abort.signal,
    onError: () => abort.abort(),
    onState: ({ state }) => states.push(state),
  });
  await settle();
  await w.request.fail();
  assert.deepEqual(states, ["closed"]);
  assert.equal(s.status.reason.type, "closed");
  assert.deepEqual(w.left, NOTHING);
});

test("nothing stays with the page's signal after any end", async (t) => {
  const w = world(t);
  const abort = new AbortController();
  stream({ signal: abort.signal }).stream.close();
  stream({ signal: abort.signal });
  await settle();
  await w.request.answer(401, {}, "");
  assert.deepEqual(getEventListeners(abort.signal, "abort"), []);
});

test("headers that cannot be had are a failure like another", async (t) => {
  const w = world(t);
  const { stream: s, faults } = stream({ headers: () => Promise.reject(new Error("no token")) });
  await settle();
  assert.deepEqual(faults[0].reason, { type: "network", message: "Error: no token" });
  assert.equal(s.status.state, "waiting");
  assert.equal(w.requests.length, 0);
  s.close();
});
