// What README.md shows, to be run: `NATS_URL=nats://127.0.0.1:4222 node examples/import.mjs`.
import { jetstream } from "@nats-io/jetstream";
import { connect } from "@nats-io/transport-node";
import { Publisher } from "@sidestream/publish";

const nats = await connect({ servers: process.env.NATS_URL });
const publisher = new Publisher(jetstream(nats));
await publisher.notify("alice", "note", { text: "the import begins" }, { id: "note-1" });
const rows = await publisher.progress("alice", "import-7").within((progress) => {
  for (let row = 1; row <= 200; row++) progress.update(row / 2, `row ${row} of 200`);
  return 200;
});
console.log(`${rows} rows`);
await nats.close();
