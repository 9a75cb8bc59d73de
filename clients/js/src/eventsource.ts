// The transport by the browser's EventSource. Where the server answered, the browser comes back by itself, when the
// server told it to: only the browser knows `retry`. Where it did not, the attempt has ended. Where the EventSource
// is dead, one request tells why.

import { judge } from "./refusal.js";
import { ask, settle } from "./request.js";
import { ENDED, type Transport } from "./transport.js";

/** Opens a stream by EventSource. Hears only the names that it was told. */
export const byEventSource: Transport = ({ url, lastEventId, options, names }, sink) => {
  // It has no headers: the server takes the last event ID from here, until the browser has one of its own.
  if (lastEventId) url.searchParams.set("lastEventId", lastEventId);
  const source = new EventSource(url, { withCredentials: options.credentials === "include" });
  const abort = new AbortController();
  let answered = false;

  // A server may call its events `open` and `error`: those have data, the browser's own have none.
  const hear = (name: string): void => {
    source.addEventListener(name, (event: MessageEvent<string | undefined>) => {
      if (event.data !== undefined) sink.event(name, event.data, event.lastEventId);
    });
  };
  source.onopen = () => {
    answered = true;
  };
  source.onerror = (event) => {
    if ("data" in event) return;
    if (source.readyState === source.CLOSED) {
      void settle(async () => (await judge(await ask(url, options, abort.signal))) ?? ENDED, abort.signal, sink);
    } else if (answered) {
      answered = false;
      sink.paused(ENDED);
    } else {
      sink.ended({ reason: { type: "network", message: "" } });
    }
  };
  for (const name of names) hear(name);
  return {
    hear,
    cancel() {
      source.close();
      abort.abort();
    },
  };
};
