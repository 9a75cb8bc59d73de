// The page of the tests: opens streams by the client, and writes down what each was told. The driver calls what
// stands in `window`.

import { connect } from "./index.js";
import { connect as share } from "./worker.js";

const streams = new Map();

/**
 * Options as JSON can say them (a shared connection is alice's, where they name nobody else's), and
 * `shared`: on a connection for all tabs. `worker`: by a script that stands there.
 */
function open(name, url, { shared, worker, ...options }) {
  const told = [];
  const tell = (what) => (value) => told.push({ [what]: value });
  const stream = (shared ? share : connect)(url, {
    parse: "text",
    backoff: { min: 100, max: 1_000, stable: 1_000 },
    ...(shared && { key: "alice" }),
    ...options,
    ...(worker && { worker: () => new SharedWorker(worker, { type: "module", name: "sidestream-1" }) }),
    onOpen: tell("open"),
    onError: tell("fault"),
    onGap: tell("gap"),
    onBye: tell("bye"),
    onSynced: tell("synced"),
    onState: tell("state"),
  });
  // Of long data the first two words are enough.
  const heard = [];
  stream.on("note", (data, event) => heard.push({ data: data.split(" ", 2).join(" "), cached: event.cached === true }));
  streams.set(name, { stream, told, heard });
}

window.open_stream = open;
/** The page is in a browser that lacks this. */
window.without = (what) => {
  const owner = what === "locks" ? Navigator.prototype : window;
  delete owner[what];
  if (what in (what === "locks" ? navigator : window)) throw new Error(`${what} is still there`);
};
/** The locks that tabs hold, by which one sees how a connection is shared. */
window.held_locks = async () => (await navigator.locks.query()).held.map(({ name }) => name);
/** The first fault of a shared stream in a frame that has no origin, and so neither workers nor locks. */
window.sandboxed = (url, script) =>
  new Promise((told) => {
    const module = `data:text/javascript,${encodeURIComponent(script)}`;
    const tell = "({ type, reason, final }) => parent.postMessage({ type, reason: reason.type, final }, '*')";
    const options = `{ key: "alice", onError: ${tell} }`;
    const { href } = new URL(url, location.href);
    const run = `const { connect } = await import(${JSON.stringify(module)}); connect("${href}", ${options});`;
    const frame = Object.assign(document.createElement("iframe"), { sandbox: "allow-scripts" });
    frame.srcdoc = `<script type="module">${run}</scr${""}ipt>`;
    addEventListener("message", ({ data }) => told(data), { once: true });
    document.body.append(frame);
  });
window.close_stream = (name) => streams.get(name).stream.close();
window.report = (name) => {
  const { stream, told, heard } = streams.get(name);
  return { status: stream.status, told, heard };
};
window.ready = true;
