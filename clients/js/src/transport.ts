// What the state machine wants of a transport: one attempt to open a stream, told to a sink, and cancelled at will.

import type { LinkOptions, Reason } from "./types.js";

/** How an attempt ended. */
export interface Outcome {
  /** Why. */
  readonly reason: Reason;
  /** Trying again is pointless. */
  readonly final?: boolean;
  /** The server says not to come back before so many milliseconds. */
  readonly after?: number | undefined;
}

/** An answer that was a stream, and ended. */
export const ENDED: Outcome = { reason: { type: "ended" } };

/**
 * To whom an attempt is told. Nothing is told once it is cancelled, which the sink does with one that has ended.
 * Needs no `this`.
 */
export interface Sink {
  /** An event. Without data it is none, but its id counts. */
  event(name: string, data: string | undefined, lastEventId: string): void;
  /** A reconnection time of the server's, in milliseconds. */
  retry(milliseconds: number): void;
  /** Something was heard, be it a comment. */
  heard(): void;
  /** It ended, and the transport comes back by itself, when the server told it to. */
  paused(outcome: Outcome): void;
  /** It ended. */
  ended(outcome: Outcome): void;
}

/** One attempt. */
export interface Attempt {
  /** An event of this name is wanted as well. */
  hear(name: string): void;
  /** Ends it. */
  cancel(): void;
}

/** What an attempt is made of. */
export interface Target {
  readonly url: URL;
  readonly lastEventId: string;
  readonly options: LinkOptions;
  /** Names that are wanted. */
  readonly names: Iterable<string>;
}

/** Makes an attempt. */
export type Transport = (target: Target, sink: Sink) => Attempt;
