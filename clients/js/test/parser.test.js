// The parser against the standard's rules, against the checklist of LaunchDarkly's contract tests (parsing, byte
// order mark, comments, line ends), and against `eventsource-parser` on random streams that are split at random
// bytes.

import assert from "node:assert/strict";
import { test } from "node:test";
import { createParser } from "eventsource-parser";
import { parser } from "../dist/parser.js";

/** What comes of these pieces: events as `[name, data, id]`, and ids and reconnection times on their own. */
function read(pieces, lastEventId = "") {
  const told = [];
  const decoder = new TextDecoder();
  const feed = parser(lastEventId, {
    event: (name, data, id) => told.push(data === undefined ? { id } : [name, data, id]),
    retry: (milliseconds) => told.push({ retry: milliseconds }),
  });
  for (const piece of pieces) {
    feed(decoder.decode(typeof piece === "string" ? new TextEncoder().encode(piece) : piece, { stream: true }));
  }
  return told;
}

const TABLE = [
  ["one line", "data: a\n\n", [["message", "a", ""]]],
  [
    "several events",
    "data: a\n\ndata: b\n\n",
    [
      ["message", "a", ""],
      ["message", "b", ""],
    ],
  ],
  ["lines of data are joined", "data: a\ndata: b\n\n", [["message", "a\nb", ""]]],
  ["lines of data that are empty", "data\ndata\n\n", [["message", "\n", ""]]],
  ["data that are empty", "data:\n\n", [["message", "", ""]]],
  ["a field without a colon", "data\n\n", [["message", "", ""]]],
  [
    "one space is taken off, no second, no other white space",
    "data:a\ndata:  b\ndata:\tc\n\n",
    [["message", "a\n b\n\tc", ""]],
  ],
  ["a colon in the value", "data: a:b: c\n\n", [["message", "a:b: c", ""]]],
  [
    "a name",
    "event: e\ndata: a\n\ndata: b\n\n",
    [
      ["e", "a", ""],
      ["message", "b", ""],
    ],
  ],
  ["a name that is empty", "event:\ndata: a\n\n", [["message", "a", ""]]],
  ["the last name counts", "event: e\nevent: f\ndata: a\n\n", [["f", "a", ""]]],
  [
    "a block without data is no event, and its name is forgotten",
    "event: e\n\ndata: a\n\n",
    [{ id: "" }, ["message", "a", ""]],
  ],
  [
    "an id stays",
    "id: 1\ndata: a\n\ndata: b\n\n",
    [
      ["message", "a", "1"],
      ["message", "b", "1"],
    ],
  ],
  ["an id without data counts", "id: 1\n\ndata: b\n\n", [{ id: "1" }, ["message", "b", "1"]]],
  [
    "an id that is empty takes it away",
    "id: 1\ndata: a\n\nid\ndata: b\n\n",
    [
      ["message", "a", "1"],
      ["message", "b", ""],
    ],
  ],
  [
    "an id with NUL is ignored",
    "id: 1\ndata: a\n\nid: 2\u00003\ndata: b\n\n",
    [
      ["message", "a", "1"],
      ["message", "b", "1"],
    ],
  ],
  ["retry", "retry: 12\n", [{ retry: 12 }]],
  [
    "retry that is not digits only",
    "retry: 1s\nretry: -1\nretry: 1.5\nretry: +1\nretry:\nretry:  1\nretry: 1 \nretry: ١\n",
    [],
  ],
  ["comments", ": a\n:\n:data: b\ndata: c\n: d\n\n:\n", [["message", "c", ""]]],
  ["a comment alone is no event", ":\n", []],
  ["unknown fields, and fields by another case", "Data: a\ndat: b\ndata : c\nfoo\ndata: d\n\n", [["message", "d", ""]]],
  [
    "CR",
    "data: a\rdata: b\r\rdata: c\r\r",
    [
      ["message", "a\nb", ""],
      ["message", "c", ""],
    ],
  ],
  [
    "CR LF",
    "data: a\r\ndata: b\r\n\r\ndata: c\r\n\r\n",
    [
      ["message", "a\nb", ""],
      ["message", "c", ""],
    ],
  ],
  [
    "mixed",
    "data: a\rdata: b\r\ndata: c\n\r\ndata: d\r\n\n",
    [
      ["message", "a\nb\nc", ""],
      ["message", "d", ""],
    ],
  ],
  [
    "other line ends of Unicode are none",
    "data: a\u2028b\u0085c\u000bd\n\n",
    [["message", "a\u2028b\u0085c\u000bd", ""]],
  ],
  ["a byte order mark", "\ufeffdata: a\n\n", [["message", "a", ""]]],
  [
    "only one, and only at the beginning",
    "\ufeff\ufeffdata: a\n\ndata: b\n\n\ufeffdata: c\n\n",
    [{ id: "" }, ["message", "b", ""], { id: "" }],
  ],
  ["one within data stays", "data: \ufeffa\n\n", [["message", "\ufeffa", ""]]],
  ["the end within a block", "data: a\n\ndata: b\n", [["message", "a", ""]]],
  ["the end within a line", "data: a\n\ndata: b", [["message", "a", ""]]],
  ["more than the basic plane", "data: \u{1f980}é\n\n", [["message", "\u{1f980}é", ""]]],
];

for (const [what, text, expected] of TABLE) {
  test(what, () => {
    assert.deepEqual(read([text]), expected);
    const bytes = new TextEncoder().encode(text);
    assert.deepEqual(read([...bytes].map((byte) => Uint8Array.of(byte))), expected, "byte by byte");
    for (let cut = 0; cut <= bytes.length; cut += 1) {
      assert.deepEqual(read([bytes.subarray(0, cut), bytes.subarray(cut)]), expected, `cut at ${cut}`);
    }
  });
}

test("an event is told with its last byte, not with the next one's first", () => {
  assert.deepEqual(read(["data: a\r", "\r"]), [["message", "a", ""]]);
  assert.deepEqual(read(["data: a\r\n\r"]), [["message", "a", ""]]);
  assert.deepEqual(
    read(["data: a\r", "", "\ndata: b\r\n\r\n"]),
    [["message", "a\nb", ""]],
    "nothing between CR and LF",
  );
});

test("the id of the connection before is that of events without one", () => {
  assert.deepEqual(read(["data: a\n\n"], "7"), [["message", "a", "7"]]);
});

test("a long line in small pieces costs its length", () => {
  const pieces = ["data: ", ...Array.from({ length: 20_000 }, () => "x".repeat(50)), "\n\n"];
  assert.equal(read(pieces)[0][1].length, 1_000_000);
});

/** Mulberry32: a small generator that a seed repeats. */
function random(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** A stream of lines that mean something, or nearly. It ends with a comment, so that no CR is the last byte. */
function stream(next) {
  const one = (list) => list[Math.floor(next() * list.length)];
  const text = () =>
    Array.from({ length: next() * 12 }, () => one(["a", "é", "\u{1f980}", ":", " ", "\0", "\ufeff", "1", "\t"])).join(
      "",
    );
  const line = () => {
    const field = one(["data", "data", "data", "event", "id", "retry", "", "Data", "foo", "data "]);
    const value = field === "retry" ? one(["1", "250", "1a", "", text()]) : text();
    return one([`${field}: ${value}`, `${field}:${value}`, field, "", ""]);
  };
  let whole = one(["", "", "\ufeff"]);
  for (let lines = next() * 60; lines > 0; lines -= 1) whole += line() + one(["\n", "\r", "\r\n"]);
  return new TextEncoder().encode(`${whole}\n:\n`);
}

function cut(bytes, next) {
  const pieces = [];
  for (let from = 0; from < bytes.length;) {
    const length = 1 + Math.floor(next() * next() * 40);
    pieces.push(bytes.subarray(from, from + length));
    from += length;
  }
  return pieces;
}

/** The same by `eventsource-parser`, which leaves the last event ID to its caller. */
function reference(bytes) {
  const told = [];
  let lastEventId = "";
  const theirs = createParser({
    onEvent: ({ event, data, id }) => {
      lastEventId = id ?? lastEventId;
      told.push([event || "message", data, lastEventId]);
    },
    onRetry: (milliseconds) => told.push({ retry: milliseconds }),
  });
  theirs.feed(new TextDecoder().decode(bytes));
  return told;
}

/** Whether only events changed the last event ID. */
function keptByEvents(told) {
  let last = "";
  return told.every((one) => {
    if (Array.isArray(one)) last = one[2];
    return !("id" in one) || one.id === last;
  });
}

test("agrees with eventsource-parser on random streams", () => {
  const seed = Number(process.env.SIDESTREAM_TEST_SEED ?? Math.floor(Math.random() * 2 ** 32)) >>> 0;
  let events = 0;
  let withIds = 0;
  for (let run = 0; run < 6_000; run += 1) {
    const next = random(seed + run);
    const bytes = stream(next);
    const ours = read(cut(bytes, next)).filter((told) => !("id" in told));
    // Theirs does not tell the ids of blocks without data: where one such changed the id, those of events are left to
    // the table.
    const ids = keptByEvents(read([bytes]));
    const plain = (told) => (ids || !Array.isArray(told) ? told : told.slice(0, 2));
    assert.deepEqual(ours.map(plain), reference(bytes).map(plain), `SIDESTREAM_TEST_SEED=${seed + run}`);
    events += ours.length;
    withIds += ids && ours.some((told) => told[2]) ? 1 : 0;
  }
  assert.ok(withIds > 500, `ids were compared in ${withIds} runs only`);
  assert.ok(events > 3_000, `${events} events are too few to show anything`);
});
