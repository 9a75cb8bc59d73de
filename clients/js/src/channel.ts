// One connection for several tabs without a SharedWorker: the tab that has the lock leads. It holds the connection
// and tells the others on a channel; when it ends, the next one in the queue for the lock goes on from the last event
// ID.
//
// Nothing is lost or doubled then, because all tabs see the same order on the channel. The new leader says there that
// it leads, and starts when it hears that itself: all that came before on the channel counts, for all tabs, and what
// its predecessor said later counts for none.

import type { Hooks, Source } from "./link.js";
import { at, hold, holdLock, Kept, pass, patience, UNANSWERED, type News, type Shared } from "./shared.js";

type Message =
  /** A tab has come, and wants to be welcomed. */
  | { readonly type: "hello"; readonly from: string }
  /** A tab leads from here on. */
  | { readonly type: "lead"; readonly leader: string }
  /** What a leader tells, to one tab or to all. */
  | { readonly type: "news"; readonly leader: string; readonly to?: string; readonly news: News };

/**
 * Joins, or makes, the connection. `failed` is called, and nothing else any more, where this page may hold no locks, or
 * where nobody answers: a leader that hangs keeps its lock.
 */
export function overChannel(shared: Shared, hooks: Hooks, failed: () => void): Source {
  const name = `sidestream ${shared.key}`;
  const own = crypto.randomUUID();
  const channel = new BroadcastChannel(name);
  const say = (message: Message): void => channel.postMessage(message);
  const kept = new Kept(shared.options.lastEventId);
  const queue = new AbortController();
  let lastEventId = shared.options.lastEventId ?? "";
  let leader: string | undefined;
  let welcomed = false;
  let over = false;
  let held: Source | undefined;
  let release: (() => void) | undefined;

  const end = (): void => {
    over = true;
    clearTimeout(unanswered);
    queue.abort();
    channel.close();
    release?.();
  };

  const unanswered = patience(shared, () => {
    end();
    hooks.fault(UNANSWERED);
    failed();
  });

  const take = (news: News): void => {
    kept.take(news);
    if (news.type === "event") ({ lastEventId } = news.event);
    else if (news.type !== "fault") {
      ({ lastEventId } = news.status);
      if (news.status.state === "closed") end();
    }
    pass(news, hooks);
  };

  const welcome = (): void => {
    welcomed = true;
    clearTimeout(unanswered);
  };

  const begin = (): void => {
    welcome();
    const tell = (news: News): void => {
      // They are not told when only this tab ends.
      if (over) return;
      // The others first: what the page does with it may take long.
      say({ type: "news", leader: own, news });
      take(news);
    };
    tell({ type: "status", status: { state: "connecting", attempt: 0, lastEventId } });
    // Who hears of that may have closed it.
    if (!over) held = hold(at(shared, lastEventId), tell);
  };

  channel.onmessage = ({ data }: MessageEvent<Message>): void => {
    if (data.type === "hello") {
      if (held) say({ type: "news", leader: own, to: data.from, news: kept.welcome() });
    } else if (data.type === "lead") {
      leader = data.leader;
      if (leader === own) begin();
      else if (!welcomed) say({ type: "hello", from: own });
    } else if (data.to === own && !welcomed) {
      welcome();
      leader = data.leader;
      take(data.news);
    } else if (data.to === undefined && welcomed && data.leader === leader) {
      take(data.news);
    }
  };

  const lead = async (): Promise<void> => {
    release = await holdLock(name, queue.signal);
    if (over) return release();
    // A channel does not hear itself: the word goes out by another one.
    const other = new BroadcastChannel(name);
    other.postMessage({ type: "lead", leader: own } satisfies Message);
    other.close();
  };
  say({ type: "hello", from: own });
  // The end of this stream takes it out of the queue; whatever else does, does so for good.
  lead().catch(() => {
    if (over) return;
    end();
    failed();
  });

  return {
    get lastEventId() {
      return lastEventId;
    },
    hear() {},
    close() {
      if (over) return;
      end();
      held?.close();
      hooks.status({ state: "closed", attempt: 0, lastEventId, reason: { type: "closed" } });
    },
  };
}
