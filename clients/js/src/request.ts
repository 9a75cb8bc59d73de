// One request for a stream by `fetch`: its head, and how it ends. Both transports ask by it, one to read the stream,
// the other to learn why it got none.

import type { Outcome, Sink } from "./transport.js";
import type { LinkOptions } from "./types.js";

/** Sends the request, and waits for the head of its answer. */
export async function ask(
  url: URL,
  options: LinkOptions,
  signal: AbortSignal,
  lastEventId?: string,
): Promise<Response> {
  const { headers, credentials = "same-origin" } = options;
  const sent = new Headers(typeof headers === "function" ? await headers() : headers);
  sent.set("accept", "text/event-stream");
  // As EventSource sends it: in UTF-8, each byte of which is a character here.
  if (lastEventId) sent.set("last-event-id", String.fromCharCode(...new TextEncoder().encode(lastEventId)));
  return fetch(url, { headers: sent, credentials, cache: "no-store", signal });
}

/** Tells the sink how it ended, unless it was cancelled, and that what throws is the network. */
export async function settle(run: () => Promise<Outcome>, signal: AbortSignal, sink: Sink): Promise<void> {
  const outcome = await run().catch((error: unknown): Outcome => ({
    reason: { type: "network", message: String(error) },
  }));
  if (!signal.aborted) sink.ended(outcome);
}
