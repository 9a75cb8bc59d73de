// The transport by `fetch`: it can set headers, sees the status, and reads the stream itself.

import { parser } from "./parser.js";
import { judge } from "./refusal.js";
import { ask, settle } from "./request.js";
import { ENDED, type Outcome, type Sink, type Target, type Transport } from "./transport.js";

async function run({ url, options, lastEventId }: Target, sink: Sink, signal: AbortSignal): Promise<Outcome> {
  const response = await ask(url, options, signal, lastEventId);
  const outcome = await judge(response);
  // A soft refusal is read as well: it says when to come back.
  if (outcome && (outcome.final || response.status !== 200)) return outcome;
  const decoder = new TextDecoder();
  const feed = parser(lastEventId, {
    event: (...event) => signal.aborted || sink.event(...event),
    retry: sink.retry,
  });
  const reader = response.body?.getReader();
  for (;;) {
    const piece = await reader?.read();
    if (!piece || piece.done) return outcome ?? ENDED;
    sink.heard();
    feed(decoder.decode(piece.value, { stream: true }));
  }
}

/** Opens a stream by `fetch`. Hears every name. */
export const byFetch: Transport = (target, sink) => {
  const abort = new AbortController();
  void settle(() => run(target, sink, abort.signal), abort.signal, sink);
  return { hear() {}, cancel: () => abort.abort() };
};
