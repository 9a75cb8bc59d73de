// Compiled, never run: a client of @nats-io/jetstream is what the library takes, and wrong calls are errors.
import { jetstream } from "@nats-io/jetstream";
import { connect } from "@nats-io/transport-node";
import { Publisher, type Stored } from "@sidestream/publish";

const publisher = new Publisher(jetstream(await connect()), { prefix: "app", userEncoding: "base64url" });
export const stored: Stored = await publisher.notify("alice", "note", { text: "hi" }, { id: "1" });
export const rows: number = await publisher.progress("alice", "t").within(async (progress) => {
  const runs: boolean = progress.update(50);
  return runs ? 1 : 0;
});
// @ts-expect-error a user is text
await publisher.notify(7, "note", {});
// @ts-expect-error no such encoding
new Publisher(jetstream(await connect()), { userEncoding: "rot13" });
// @ts-expect-error a NATS connection is no JetStream client
new Publisher(await connect());
