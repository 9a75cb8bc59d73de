// Publishes one event to one user and one to everybody, and prints where the stream keeps them. Needs a NATS server with a
// stream that captures `events.>`; `sidestream dev` makes one and prints its address.
//
//     npm ci
//     NATS_URL=nats://127.0.0.1:4222 node publish.mjs
//
// The payload is what the browser gets as `event.data`, the header `Sse-Event` becomes the event's name. `publish` waits for
// the stream's acknowledgement: before it the event is only on its way.
import { connect, headers } from "@nats-io/transport-node";
import { jetstream } from "@nats-io/jetstream";

const connection = await connect({ servers: process.env.NATS_URL ?? "nats://127.0.0.1:4222" });
try {
  const js = jetstream(connection);
  for (const [subject, name] of [["events.user.alice.note", "note"], ["events.broadcast.news", "news"]]) {
    const head = headers();
    head.set("Sse-Event", name);
    const { stream, seq } = await js.publish(subject, JSON.stringify({ text: "hello from Node" }), { headers: head });
    console.log(JSON.stringify({ stream, seq }));
  }
} finally {
  await connection.close();
}
