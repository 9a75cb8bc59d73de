// A world without network and without time of its own: requests are answered, and time passes, when a test says so.

import { mock } from "node:test";
import { Clock } from "./clock.js";

/** Lets everything run that waits for nothing but its turn. */
export async function settle() {
  for (let turn = 0; turn < 20; turn += 1) await new Promise((resolve) => setImmediate(resolve));
}

/** A request that was sent by `fetch`. */
class Request {
  #answer;
  #controller;

  constructor(url, init) {
    this.url = new URL(url);
    this.headers = new Headers(init.headers);
    this.credentials = init.credentials;
    this.cache = init.cache;
    this.signal = init.signal;
    this.answered = new Promise((resolve, reject) => {
      this.#answer = { resolve, reject };
    });
    this.signal.addEventListener("abort", () => {
      this.#answer.reject(this.signal.reason);
      try {
        this.#controller?.error(this.signal.reason);
      } catch {
        // The answer had ended.
      }
    });
  }

  /** Answers with a head; a body that is not given is written by `push`. */
  async answer(status = 200, headers = {}, body = undefined) {
    const stream = new ReadableStream({ start: (controller) => void (this.#controller = controller) });
    const type = { "content-type": status === 200 ? "text/event-stream" : "application/json" };
    const empty = status === 204;
    this.#answer.resolve(new Response(empty ? null : (body ?? stream), { status, headers: { ...type, ...headers } }));
    await settle();
  }

  async push(text) {
    this.#controller.enqueue(typeof text === "string" ? new TextEncoder().encode(text) : text);
    await settle();
  }

  /** The first event of a stream of ours. */
  async connected({ id = "e.1.1", heartbeat = 15, retry = 0 } = {}) {
    const data = JSON.stringify({ connection: "c1", resume: "new", heartbeat });
    await this.push(`event: sidestream.connected\nretry: ${retry}\nid: ${id}\ndata: ${data}\n\n`);
  }

  /** Answers with a stream of ours that begins. */
  async open(options) {
    await this.answer();
    await this.connected(options);
  }

  async end() {
    this.#controller.close();
    await settle();
  }

  async fail(error = new TypeError("failed to fetch")) {
    this.#answer.reject(error);
    this.#controller?.error(error);
    await settle();
  }
}

/** An EventSource that does what a test says. */
class Source extends EventTarget {
  static CONNECTING = 0;
  static OPEN = 1;
  static CLOSED = 2;
  CLOSED = 2;
  readyState = 0;
  onopen = null;
  onerror = null;

  constructor(url, init) {
    super();
    this.url = new URL(url);
    this.withCredentials = init.withCredentials;
    this.addEventListener("open", (event) => this.onopen?.(event));
    this.addEventListener("error", (event) => this.onerror?.(event));
  }

  close() {
    this.readyState = 2;
  }

  async tell(type, fields = {}) {
    if (this.readyState === 2 && type !== "error") throw new Error("a dead EventSource tells nothing");
    this.dispatchEvent(Object.assign(new Event(type), fields));
    await settle();
  }

  async answered() {
    this.readyState = 1;
    await this.tell("open");
  }

  async event(type, data, lastEventId = "") {
    await this.tell(type, { data, lastEventId });
  }

  async connected({ id = "e.1.1", heartbeat = 15 } = {}) {
    await this.answered();
    await this.event("sidestream.connected", JSON.stringify({ connection: "c1", resume: "new", heartbeat }), id);
  }

  /** The connection broke; the browser will try again. */
  async broke() {
    this.readyState = 0;
    await this.tell("error");
  }

  /** An answer that the browser takes for final. */
  async died() {
    this.readyState = 2;
    await this.tell("error");
  }
}

/** Puts the world in place, for one test. */
export function world(t) {
  const requests = [];
  const sources = [];
  const window = new EventTarget();
  const listeners = new Map();
  const clock = new Clock();
  const replaced = {
    fetch: (url, init) => {
      const request = new Request(url, init);
      requests.push(request);
      return request.answered;
    },
    EventSource: class extends Source {
      constructor(url, init) {
        super(url, init);
        sources.push(this);
      }
    },
    location: { href: "https://example.com/page/" },
    addEventListener: (type, listener, options) => {
      window.addEventListener(type, listener, options);
      listeners.set(type, (listeners.get(type) ?? 0) + 1);
      options?.signal?.addEventListener("abort", () => listeners.set(type, listeners.get(type) - 1));
    },
  };
  const before = Object.keys(replaced).map((key) => [key, Object.getOwnPropertyDescriptor(globalThis, key)]);
  for (const [key, value] of Object.entries(replaced)) {
    Object.defineProperty(globalThis, key, { value, configurable: true, writable: true });
  }
  t.after(() => {
    clock.restore();
    mock.restoreAll();
    for (const [key, descriptor] of before) {
      if (descriptor) Object.defineProperty(globalThis, key, descriptor);
      else delete globalThis[key];
    }
  });
  return {
    requests,
    sources,
    /** The last one. */
    get request() {
      return requests.at(-1);
    },
    get source() {
      return sources.at(-1);
    },
    /** What is left behind. */
    get left() {
      const open = requests.filter((request) => !request.signal.aborted).length;
      const alive = sources.filter((source) => source.readyState !== 2).length;
      return { timers: clock.timers, listeners: [...listeners.values()].reduce((a, b) => a + b, 0), open, alive };
    },
    pass: (milliseconds) => clock.pass(milliseconds, settle),
    async network(type) {
      window.dispatchEvent(new Event(type));
      await settle();
    },
    /** What chance gives from now on. */
    chance(value) {
      mock.method(Math, "random", () => value);
    },
  };
}

/** Nothing is left behind. */
export const NOTHING = { timers: 0, listeners: 0, open: 0, alive: 0 };
