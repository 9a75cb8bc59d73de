// npm `eventsource-parser` over fetch: reads URL as USER until an event named END, and prints every event as a JSON line.
// The parser hands over one event at a time; the name and the last event ID follow the standard's rules here.
// Usage: node eventsource-parser.mjs URL USER END
import { writeSync } from 'node:fs';
import { createParser } from 'eventsource-parser';

const [url, user, end] = process.argv.slice(2);
const response = await fetch(url, { headers: { Accept: 'text/event-stream', 'X-Forwarded-User': user } });
if (response.status !== 200) throw new Error(`status ${response.status}`);
let lastEventId = '';
const parser = createParser({
  onEvent({ event, data, id }) {
    lastEventId = id ?? lastEventId;
    writeSync(1, JSON.stringify({ event: event || 'message', data, id: lastEventId }) + '\n');
    if (event === end) process.exit(0);
  },
  onError(error) {
    console.error('error', error.type, error.message);
    process.exit(1);
  },
});
const decoder = new TextDecoder('utf-8', { ignoreBOM: true });
for await (const chunk of response.body) parser.feed(decoder.decode(chunk, { stream: true }));
process.exit(2);
