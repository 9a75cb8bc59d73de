// The SharedWorker: holds the connections of all tabs of this origin, each once. A tab holds a lock as long as it
// lives, and whoever gets that lock knows that the tab is gone, however it went.

import { hold, Kept, type News, type Shared } from "./shared.js";
import type { Source } from "./link.js";

/** What a tab says. */
export type Order =
  | { readonly type: "join"; readonly shared: Shared; readonly lock: string }
  | { readonly type: "leave" }
  /** What the browser tells the tab of the network. It does not tell every worker. */
  | { readonly type: "offline" | "online" };

interface Held {
  readonly source: Source;
  readonly kept: Kept;
  readonly tabs: Set<MessagePort>;
}

const connections = new Map<string, Held>();
let network: "offline" | "online" = "online";

function begin(shared: Shared): Held {
  const tabs = new Set<MessagePort>();
  const kept = new Kept(shared.options.lastEventId);
  const source = hold(shared, (news) => {
    kept.take(news);
    // Whoever comes after the end gets a connection of their own.
    if (news.type === "status" && news.status.state === "closed") connections.delete(shared.key);
    for (const port of tabs) port.postMessage(news);
  });
  const held = { source, kept, tabs };
  connections.set(shared.key, held);
  return held;
}

/** Tells all connections, once, what the first tab says. */
function tell(now: "offline" | "online"): void {
  if (now === network) return;
  network = now;
  globalThis.dispatchEvent(new Event(now));
}

function serve(port: MessagePort): void {
  let held: Held | undefined;

  const leave = (): void => {
    held?.tabs.delete(port);
    if (held?.tabs.size === 0) held.source.close();
    held = undefined;
  };

  port.onmessage = ({ data }: MessageEvent<Order>): void => {
    if (data.type === "leave") return leave();
    if (data.type !== "join") return tell(data.type);
    held = connections.get(data.shared.key) ?? begin(data.shared);
    held.tabs.add(port);
    port.postMessage(held.kept.welcome() satisfies News);
    void navigator.locks.request(data.lock, leave);
  };
}

globalThis.addEventListener("connect", (event) => {
  for (const port of (event as MessageEvent).ports) serve(port);
});
