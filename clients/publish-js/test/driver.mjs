// Does what the tests say: one JSON command a line on standard input, one JSON answer a line on standard output. The
// drivers of the other libraries understand the same commands.
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { jetstream } from "@nats-io/jetstream";
import { connect } from "@nats-io/transport-node";
import { Publisher } from "@sidestream/publish";

const nats = await connect({ servers: process.env.NATS_URL, reconnectTimeWait: 100, maxReconnectAttempts: -1 });
let publisher = new Publisher(jetstream(nats));
let progress;

const stored = ({ seq, duplicate }) => ({ seq, duplicate });
const subject = (make) => {
  try {
    return make();
  } catch {
    return null;
  }
};

// Ten callers at the same time, a hundred updates each, none in order.
async function storm() {
  const call = async (caller) => {
    for (let update = 0; update < 100; update++) {
      progress.update((update * 37 + caller * 11) % 100, `caller ${caller}`);
      await sleep(5);
    }
  };
  await Promise.all(Array.from({ length: 10 }, (_, caller) => call(caller)));
  return {};
}

const commands = {
  configure({ prefix, encoding, patience = 60_000 }) {
    publisher = new Publisher(jetstream(nats), { prefix, userEncoding: encoding, progressPatience: patience });
    return {};
  },
  subjects: ({ users, events }) => ({
    users: users.map((user) => subject(() => publisher.userSubject(user, "note"))),
    events: events.map((event) => subject(() => publisher.broadcastSubject(event))),
  }),
  notify: async ({ user, event, data, id }) => stored(await publisher.notify(user, event, data, { id })),
  broadcast: async ({ event, data, id }) => stored(await publisher.broadcast(event, data, { id })),
  begin({ user, task }) {
    progress = publisher.progress(user, task);
    return {};
  },
  update: ({ percent, message }) => ({ runs: progress.update(percent ?? NaN, message) }),
  storm,
  complete: async () => stored(await progress.complete()),
  fail: async ({ message }) => stored(await progress.fail(message)),
  within: ({ user, task, error }) =>
    publisher.progress(user, task).within((progress) => {
      progress.update(30, "within");
      if (error) throw new Error(error);
      return {};
    }),
};

for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line);
  let answer;
  try {
    answer = await commands[command.do](command);
  } catch (error) {
    answer = { error: error.message };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
await nats.close();
