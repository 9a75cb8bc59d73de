// All that the application has to know of events: where they go, and under which name. What was `sendToUser` and `broadcast` with a map
// of clients is a publish with its acknowledgement here; who listens, and where, is not the application's business any more.
import { connect, headers } from '@nats-io/transport-node';
import { jetstream } from '@nats-io/jetstream';

export async function publisher(servers) {
  const connection = await connect({ servers, name: 'express-example', maxReconnectAttempts: -1 });
  const stream = jetstream(connection);

  // `id`: the same event published twice, as after a time-out, is stored once.
  async function publish(subject, name, data, id) {
    const head = headers();
    head.set('Sse-Event', name);
    const { seq } = await stream.publish(subject, JSON.stringify(data), { headers: head, msgID: id });
    return seq;
  }

  return {
    sendToUser: (user, name, data, id) => publish(`events.user.${user}.${name}`, name, data, id),
    broadcast: (name, data, id) => publish(`events.broadcast.${name}`, name, data, id),
    // A subject for each task, so that the stream can say how far each has come. `step` rises.
    progress: (user, task, step, state) =>
      publish(`events.user.${user}.progress.${task}`, 'progress', { task, ...state }, `${task}-${step}`),
    close: () => connection.drain(),
  };
}
