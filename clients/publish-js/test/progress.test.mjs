// What needs no server: a JetStream client of the right shape answers, fails or waits as the test says.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { Publisher } from "@sidestream/publish";

// Keeps what is published; `answer` decides what becomes of it.
function fake(answer = () => {}) {
  const sent = [];
  const publish = async (subject, payload, options) => {
    sent.push({ subject, ...JSON.parse(payload), id: options.msgID });
    await answer(sent.at(-1), sent.length);
    return { stream: "EVENTS", seq: sent.length, duplicate: false };
  };
  return { sent, publish };
}

// A bound on what is waited for, not a measure of it.
async function until(condition) {
  for (let tried = 0; !condition(); tried++) {
    assert.ok(tried < 6000, "it does not happen");
    await sleep(10);
  }
}

const fails = (message) => () => Promise.reject(new Error(message));

test("while a message is on its way, updates are merged to the latest", async () => {
  let release;
  const held = new Promise((resolve) => (release = resolve));
  const jetstream = fake((_, count) => (count === 1 ? held : undefined));
  const progress = new Publisher(jetstream, { progressInterval: 0 }).progress("alice", "t");
  for (let percent = 0; percent <= 90; percent++) progress.update(percent, `at ${percent}`);
  release();
  await progress.complete();
  assert.deepEqual(jetstream.sent.map(({ percent, state }) => [percent, state]), [[0, "running"], [100, "completed"]]);
  assert.equal(jetstream.sent[1].message, "at 90");
});

test("the end is published again with the same id and payload", async () => {
  const jetstream = fake(({ state }, count) => (state !== "running" && count < 4 ? fails("lost")() : undefined));
  await new Publisher(jetstream).progress("alice", "t").complete();
  const ends = jetstream.sent.filter(({ state }) => state === "completed");
  assert.equal(ends.length, 3);
  assert.match(ends[0].id, /^[0-9a-f-]{36}\.end$/);
  for (const end of ends) assert.deepEqual(end, ends[0]);
});

test("of two ends at the same time the first counts", async () => {
  const jetstream = fake();
  const progress = new Publisher(jetstream).progress("alice", "t");
  const [failed, completed] = await Promise.all([progress.fail("first"), progress.complete()]);
  assert.deepEqual(failed, completed);
  assert.deepEqual(jetstream.sent.map(({ state, percent }) => [state, percent]), [["running", 0], ["failed", 0]]);
});

test("an end that nobody acknowledges is the caller's error, but for a scope that has one of its own", async () => {
  const publisher = new Publisher(fake(fails("NATS is gone")), { progressPatience: 0 });
  await assert.rejects(publisher.progress("alice", "t").complete(), /NATS is gone/);
  await assert.rejects(publisher.progress("alice", "t").within(() => 1), /NATS is gone/);
  const own = () => assert.fail("own");
  await assert.rejects(publisher.progress("alice", "t").within(own), /own/);
});

// As the connection's own class is called.
function closed() {
  const error = new Error("closed connection");
  error.name = "ClosedConnectionError";
  return error;
}

test("once the connection is closed nothing is published any more, and the end says so at once", async () => {
  const jetstream = fake((_, count) => Promise.reject(count === 1 ? new Error("lost") : closed()));
  const progress = new Publisher(jetstream, { progressInterval: 0 }).progress("alice", "t");
  await until(() => !progress.update(50));
  assert.equal(jetstream.sent.length, 2);
  await assert.rejects(progress.complete(), /closed connection/);
  await assert.rejects(progress.fail("why"), /closed connection/);
  assert.equal(jetstream.sent.length, 2);
});

test("an end is not tried again once the connection is closed", async () => {
  const jetstream = fake(({ state }) => (state === "running" ? undefined : Promise.reject(closed())));
  await assert.rejects(new Publisher(jetstream).progress("alice", "t").complete(), /closed connection/);
  assert.equal(jetstream.sent.filter(({ state }) => state === "completed").length, 1);
});

test("a run without an end does not keep Node alive", async () => {
  const run = `
    import { Publisher } from "@sidestream/publish";
    const publish = () => Promise.reject(new Error("lost"));
    new Publisher({ publish }, { progressInterval: 3_600_000 }).progress("alice", "t");`;
  const node = spawn(process.execPath, ["--input-type=module", "--eval", run], { cwd: import.meta.dirname });
  const tooLong = setTimeout(() => node.kill("SIGKILL"), 60_000);
  assert.deepEqual(await once(node, "exit"), [0, null]);
  clearTimeout(tooLong);
});

test("a failure says why in a few words, whatever was thrown", async () => {
  const reasons = [[new TypeError("bad"), "bad"], [new TypeError(), "TypeError"], ["text", "text"], [7, "7"]];
  for (const [why, message] of reasons) {
    const jetstream = fake();
    await assert.rejects(new Publisher(jetstream).progress("alice", "t").within(() => { throw why; }));
    assert.equal(jetstream.sent.at(-1).message, message);
  }
});

test("what cannot be published is refused before anything is sent", async () => {
  const jetstream = fake();
  const publisher = new Publisher(jetstream);
  await assert.rejects(publisher.notify("a.b", "note", {}), RangeError);
  await assert.rejects(publisher.notify("alice", "sidestream.gap", {}), RangeError);
  await assert.rejects(publisher.notify("alice", "note", undefined), RangeError);
  await assert.rejects(publisher.notify("alice", "note", {}, { id: "a\nb" }), RangeError);
  await assert.rejects(publisher.notify("alice", "\ud800", {}), RangeError);
  assert.throws(() => publisher.progress("alice", "a.b"), RangeError);
  assert.throws(() => new Publisher(jetstream, { userEncoding: "rot13" }), RangeError);
  assert.deepEqual(jetstream.sent, []);
});

test("what is no text names nobody and nothing, and the error says what is allowed", async () => {
  const jetstream = fake();
  for (const userEncoding of ["refuse", "base64url"]) {
    const publisher = new Publisher(jetstream, { userEncoding });
    for (const none of [undefined, null, 42, 7n, true, {}, ["alice"], Symbol("alice")]) {
      const refused = (what) => ({ name: "RangeError", message: new RegExp(`${what}: (one plain subject token|1 to 256)`) });
      await assert.rejects(publisher.notify(none, "note", {}), refused("is not a user id"));
      await assert.rejects(publisher.notify("alice", none, {}), refused("is not an event name"));
      await assert.rejects(publisher.broadcast(none, {}), refused("is not an event name"));
      assert.throws(() => publisher.progress(none, "t"), refused("is not a user id"));
      assert.throws(() => publisher.progress("alice", none), refused("is not a task id"));
      if (none === undefined) continue;
      await assert.rejects(publisher.notify("alice", "note", {}, { id: none }), refused("is not a message id"));
      assert.throws(() => new Publisher(jetstream, { prefix: none }), { name: "RangeError" });
    }
  }
  assert.deepEqual(jetstream.sent, []);
});

test("an update of other types is refused by name and changes nothing", async () => {
  const jetstream = fake();
  const progress = new Publisher(jetstream).progress("alice", "t");
  for (const none of [undefined, null, "50", 50n, {}]) {
    assert.throws(() => progress.update(none), { name: "TypeError", message: /^percent must be a number: / });
  }
  for (const none of [null, 42, {}]) {
    assert.throws(() => progress.update(50, none), { name: "TypeError", message: /^message must be a string: / });
  }
  await progress.fail("why");
  assert.equal(jetstream.sent.at(-1).percent, 0);
});
