// npm's clients of event streams, one of them each run. It prints a JSON line for every event that the client hands over, and one,
// {"ended": why}, when the client has given up. The little loop at the end then starts it anew from the last id, as an application has
// to that uses it. What the clients do of themselves, and where they leave the standard, is told in ../deviations.rs.
//
// Usage: node client.mjs CLIENT URL
import { writeSync } from 'node:fs';
import { createRequire } from 'node:module';

const require = createRequire(import.meta.url);
const [client, url] = process.argv.slice(2);
let last = '';

const print = (line) => writeSync(1, JSON.stringify(line) + '\n');

// As it was handed over: a missing name, id or piece of data is told as null.
function event({ event, id, data }) {
  if (id) last = `${id}`;
  print({ event: event ?? null, id: id === undefined ? null : `${id}`, data: data ?? null });
}

// An EventSource delivers only the names that somebody listens for.
const names = ['message', 'note', 'größe', 'marker',
  ...['connected', 'gap', 'heartbeat', 'degraded', 'ok', 'synced', 'bye'].map((name) => `sidestream.${name}`)];

// It sends no header of ours, so a cursor from before goes into the URL.
const from = (url) => (last ? `${url}?last_event_id=${last}` : url);

// For clients made after the browser's interface. `closed`: the event by which one says that it is no more.
const source = (open, closed = 'error') => new Promise((ended) => {
  const source = open();
  for (const name of names) {
    source.addEventListener(name, ({ type, data, lastEventId }) => event({ event: type, id: lastEventId, data }));
  }
  // Of launchdarkly-eventsource an error to which nobody listens ends the process.
  source.addEventListener('error', () => {});
  source.addEventListener(closed, (error) => {
    if (source.readyState === 2) ended(`closed, ${error.code ?? error.status ?? ''} ${error.message ?? ''}`);
  });
});

const headers = () => (last ? { 'Last-Event-ID': last } : {});

// What a browser has and @microsoft/fetch-event-source takes for granted.
function pretendToBeABrowser() {
  globalThis.window = globalThis;
  globalThis.document = { hidden: false, addEventListener() {}, removeEventListener() {} };
}

const clients = {
  async eventsource3(url) {
    const { EventSource } = await import('eventsource3');
    return source(() => new EventSource(from(url)));
  },
  async eventsource4(url) {
    const { EventSource } = await import('eventsource4');
    return source(() => new EventSource(from(url)));
  },
  async eventsource5(url) {
    const { EventSource } = await import('eventsource5');
    return source(() => new EventSource(from(url)));
  },
  async undici(url) {
    const { EventSource } = await import('undici');
    return source(() => new EventSource(from(url)));
  },
  async 'launchdarkly-eventsource'(url) {
    const { EventSource } = require('launchdarkly-eventsource');
    // Otherwise the five seconds of Node's default agent count, and silence ends the stream.
    return source(() => new EventSource(from(url), { readTimeoutMillis: 40_000 }), 'closed');
  },
  async 'eventsource-client'(url) {
    const { createEventSource } = await import('eventsource-client');
    return new Promise((ended) => {
      const source = createEventSource({
        url,
        initialLastEventId: last || undefined,
        onMessage: event,
        onDisconnect: () => setImmediate(() => source.readyState === 'closed' && ended('closed')),
      });
    });
  },
  async 'microsoft-fetch-event-source'(url) {
    pretendToBeABrowser();
    const { fetchEventSource } = require('@microsoft/fetch-event-source');
    // In small letters, as it keeps the id itself: with others both are sent, joined by a comma, and that is no cursor.
    const headers = last ? { 'last-event-id': last } : {};
    await fetchEventSource(url, { headers, openWhenHidden: true, onmessage: event });
    return 'resolved';
  },
  async 'sentool-fetch-event-source'(url) {
    const { fetchEventSource } = require('@sentool/fetch-event-source');
    let why = 'done';
    await fetchEventSource(url, { headers: headers(), parseJson: false, onmessage: event, onerror: (error) => (why = `${error}`) });
    return why;
  },
  async 'fetch-event-stream'(url) {
    const { stream } = await import('fetch-event-stream');
    for await (const message of await stream(url, { headers: headers() })) event(message);
    return 'iterated to its end';
  },
};

// A client that waits for its next attempt does not always keep Node from its end: undici, and EventSource by it, do not.
setInterval(() => {}, 60_000);
for (;;) {
  const why = await clients[client](url).catch((error) => (error instanceof Response ? `status ${error.status}` : `${error}`));
  print({ ended: why.trim() });
  await new Promise((resolve) => setTimeout(resolve, 500));
}
