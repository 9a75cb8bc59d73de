// The SharedWorker: holds the connections of all tabs of this origin, each once. A tab holds a lock as long as it
// lives, and whoever gets that lock knows that the tab is gone, however it went. The worker holds one as well, since it
// may go with the tab in whose process it runs; its tabs come to the next one then, each with its position.

import type { Source } from "./link.js";
import { Recent } from "./recent.js";
import { at, hold, holdLock, Kept, type News, type Shared } from "./shared.js";

/** What a tab says. */
export type Order =
  /** `from`: where it stood when another worker ended; empty for one that is new. */
  | { readonly type: "join"; readonly shared: Shared; readonly lock: string; readonly from: string }
  | { readonly type: "leave" }
  /** What the browser tells the tab of the network. It does not tell every worker. */
  | { readonly type: "offline" | "online" };

interface Held {
  readonly source: Source;
  readonly kept: Kept;
  readonly recent: Recent;
  readonly tabs: Set<MessagePort>;
}

const connections = new Map<string, Held>();
let network: "offline" | "online" = "online";

const LIFE = `sidestream worker ${crypto.randomUUID()}`;
const alive = holdLock(LIFE);

function begin(shared: Shared): Held {
  const { key } = shared;
  const { lastEventId = "" } = shared.options;
  const tabs = new Set<MessagePort>();
  const kept = new Kept(lastEventId);
  const recent = new Recent(lastEventId);
  const source = hold(shared, (news) => {
    kept.take(news);
    if (news.type === "event") recent.add(news.event);
    // Whoever comes after the end gets a connection of their own.
    if (news.type === "status" && news.status.state === "closed" && connections.get(key) === held) {
      connections.delete(key);
    }
    for (const port of tabs) port.postMessage(news);
  });
  const held = { source, kept, recent, tabs };
  if (!connections.has(key)) connections.set(key, held);
  return held;
}

/** The connection for a tab, and how it is welcomed there. */
function join({ shared, from }: { shared: Shared; from: string }): [Held, News] {
  const present = connections.get(shared.key);
  if (!from) {
    const held = present ?? begin(shared);
    return [held, { ...held.kept.welcome(), lock: LIFE }];
  }
  // One that missed what nobody here remembers gets a connection of its own.
  const missed = present?.recent.after(from);
  const held = present && missed ? present : begin(at(shared, from));
  return [held, { ...held.kept.welcome(), kept: missed ?? [], lock: LIFE }];
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
    const [joined, welcome] = join(data);
    held = joined;
    held.tabs.add(port);
    port.postMessage(welcome);
    void navigator.locks.request(data.lock, leave);
  };
}

globalThis.addEventListener("connect", (event) => {
  // Not before it can be seen that the worker is gone; where that is refused nobody is answered.
  for (const port of (event as MessageEvent).ports) alive.then(() => serve(port)).catch(() => {});
});
