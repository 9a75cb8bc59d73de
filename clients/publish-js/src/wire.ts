// What is needed of NATS: a `JetStreamClient` of @nats-io/jetstream 3 has it, and so does anything of the same shape.
import { headers, type MsgHdrs } from "@nats-io/nats-core";

/** The stream's acknowledgement. */
export interface Stored {
  stream: string;
  seq: number;
  duplicate: boolean;
}

/** The options of `publish` that are used. */
export interface PublishOptions {
  headers: MsgHdrs;
  msgID?: string;
  /** Milliseconds. */
  timeout?: number;
  expect?: { lastSubjectSequence: number };
}

/** Publishes and waits for the acknowledgement. */
export interface JetStream {
  publish(subject: string, payload: string, options: PublishOptions): Promise<Stored>;
}

/** The headers of an event of this name. */
export function named(event: string): MsgHdrs {
  const head = headers();
  head.set("Sse-Event", event);
  return head;
}

/** Whether a publication failed because its connection is closed for good, or is being drained: no later one succeeds. */
export function isOver(failed: unknown): boolean {
  // By name: the application's copy of the library may be another one than ours.
  return failed instanceof Error && /^(Closed|Draining)ConnectionError$/.test(failed.name);
}
