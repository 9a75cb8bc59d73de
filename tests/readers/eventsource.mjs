// npm `eventsource`: reads URL as USER until an event named END, and prints every event as a JSON line.
// EventSource only delivers the names that somebody listens for, so the names come in a JSON file.
// Usage: node eventsource.mjs URL USER END NAMES.json
import { readFileSync, writeSync } from 'node:fs';
import { EventSource } from 'eventsource';

const [url, user, end, names] = process.argv.slice(2);
const source = new EventSource(url, {
  fetch: (input, init) => fetch(input, { ...init, headers: { ...init.headers, 'X-Forwarded-User': user } }),
});
const listen = (name) =>
  source.addEventListener(name, ({ type, data, lastEventId }) => {
    if (data === undefined) return; // `open` and `error` are also EventSource's own, then without data
    writeSync(1, JSON.stringify({ event: type, data, id: lastEventId }) + '\n');
    if (type === end) {
      source.close();
      process.exit(0);
    }
  });
for (const name of new Set([...JSON.parse(readFileSync(names, 'utf8')), 'sidestream.connected', end])) listen(name);
source.addEventListener('error', (event) => {
  if (event.data !== undefined) return;
  console.error('error', event.code, event.message);
  process.exit(1);
});
