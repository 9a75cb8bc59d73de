// The last events of a connection that a worker holds, for tabs that were in before it: each goes on from where it
// stood, if that is known here.

import type { SidestreamEvent } from "./types.js";

/** Events that are held; those beyond, the oldest, are forgotten. */
const EVENTS = 256;

/** What came since the connection began, as far as it is remembered. */
export class Recent {
  readonly #events: SidestreamEvent[] = [];
  // The position before the first of them.
  #before: string;

  constructor(before: string) {
    this.#before = before;
  }

  /** Remembers one more. */
  add(event: SidestreamEvent): void {
    this.#events.push(event);
    if (this.#events.length > EVENTS) this.#before = this.#events.shift()?.lastEventId ?? "";
  }

  /** What came after a position, as the server would say it; nothing where that is not known. */
  after(lastEventId: string): readonly SidestreamEvent[] | undefined {
    const last = this.#events.map((event) => event.lastEventId).lastIndexOf(lastEventId);
    if (last < 0 && lastEventId !== this.#before) return undefined;
    return this.#events.slice(last + 1);
  }
}
