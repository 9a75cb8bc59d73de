// The page of the tests: opens streams by the client, and writes down what each was told. The driver calls what stands in `window`.

import { connect } from "./index.js";

const streams = new Map();

/** Options as JSON can say them. */
function open(name, url, options) {
  const told = [];
  const tell = (what) => (value) => told.push({ [what]: value });
  const stream = connect(url, {
    parse: "text", backoff: { min: 100, max: 1_000, stable: 1_000 }, ...options,
    onOpen: tell("open"), onError: tell("fault"), onGap: tell("gap"), onBye: tell("bye"), onState: tell("state"),
  });
  const heard = [];
  stream.on("note", (data, event) => heard.push({ data, cached: event.cached === true }));
  streams.set(name, { stream, told, heard });
}

window.open_stream = open;
window.close_stream = (name) => streams.get(name).stream.close();
window.report = (name) => {
  const { stream, told, heard } = streams.get(name);
  return { status: stream.status, lastEventId: stream.lastEventId, told, heard };
};
window.ready = true;
