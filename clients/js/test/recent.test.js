// What a worker remembers for tabs of the one before.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Recent } from "../dist/recent.js";

const event = (number) => ({ name: "x", data: `${number}`, lastEventId: `e.${number}.1` });
const data = (events) => events?.map(({ data }) => data);

test("what came after a position is known from where it began", () => {
  const recent = new Recent("e.0.1");
  assert.deepEqual(recent.after("e.0.1"), []);
  for (const number of [1, 2, 3]) recent.add(event(number));
  assert.deepEqual(data(recent.after("e.0.1")), ["1", "2", "3"]);
  assert.deepEqual(data(recent.after("e.2.1")), ["3"]);
  assert.deepEqual(data(recent.after("e.3.1")), []);
  assert.equal(recent.after("e.9.1"), undefined);
});

test("events without an id of their own belong to the one before", () => {
  const recent = new Recent("e.0.1");
  for (const number of [0, 1, 1, 2]) recent.add(event(number));
  assert.deepEqual(data(recent.after("e.0.1")), ["1", "1", "2"]);
  assert.deepEqual(data(recent.after("e.1.1")), ["2"]);
});

test("the oldest are forgotten, and nothing is said of them", () => {
  const recent = new Recent("e.0.1");
  for (let number = 1; number <= 257; number += 1) recent.add(event(number));
  assert.equal(recent.after("e.0.1"), undefined);
  assert.equal(recent.after("e.1.1").length, 256);
});
