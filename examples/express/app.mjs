// An application as a team has it: sessions, orders, announcements, long tasks. It holds no stream: it publishes (publish.mjs), and tells
// nginx who a session belongs to (`/auth`), once for each stream. Started by ./run, behind nginx.
import { randomUUID } from 'node:crypto';
import { fileURLToPath } from 'node:url';
import { setTimeout as wait } from 'node:timers/promises';
import session from 'cookie-session';
import express from 'express';
import { publisher } from './publish.mjs';

const { PORT, NATS_URL, SESSION_SECRET } = process.env;
const USERS = new Set(['alice', 'bob']); // a demonstration: whoever says a name is it
const HOUR = 3600;

const events = await publisher(NATS_URL);
const app = express();
app.disable('x-powered-by');
// Signed, and out of reach of scripts and of other sites' requests. Add `secure: true` where nginx speaks TLS.
app.use(session({ name: 'session', keys: [SESSION_SECRET], httpOnly: true, sameSite: 'lax', maxAge: HOUR * 1000 }));
app.use(express.json({ limit: '16kb' }));

const known = ({ session }) => (USERS.has(session.user) && session.expires > Date.now() / 1000 ? session.user : undefined);
const signedIn = (request, response, next) => (known(request) ? next() : response.sendStatus(401));

// nginx asks this before it opens a stream. The stream ends when the session does.
app.get('/auth', (request, response) => {
  const user = known(request);
  if (!user) return response.sendStatus(401);
  response.set({ 'X-User-Id': user, 'X-User-Expires': `${request.session.expires}` }).sendStatus(200);
});

app.post('/login', (request, response) => {
  const user = request.body?.user;
  if (!USERS.has(user)) return response.sendStatus(403);
  request.session = { user, expires: Math.floor(Date.now() / 1000) + HOUR };
  response.sendStatus(204);
});

app.post('/logout', (request, response) => {
  request.session = null;
  response.sendStatus(204);
});

app.post('/orders', signedIn, async (request, response) => {
  const order = randomUUID();
  const item = `${request.body?.item ?? ''}`.slice(0, 200);
  await events.sendToUser(known(request), 'order', { order, item }, order);
  response.status(201).json({ order });
});

app.post('/announcements', signedIn, async (request, response) => {
  const text = `${request.body?.text ?? ''}`.slice(0, 500);
  await events.broadcast('announcement', { from: known(request), text }, randomUUID());
  response.sendStatus(204);
});

app.post('/tasks', signedIn, (request, response) => {
  const task = randomUUID();
  work(known(request), task).catch((error) => console.error(`task ${task}:`, error));
  response.status(202).json({ task });
});

// The work is pretended. What ends badly keeps the last percentage.
async function work(user, task) {
  let percent = 0;
  const report = (status) => events.progress(user, task, `${status}-${percent}`, { percent, status });
  try {
    for (; percent < 100; percent += 20) {
      await report('running');
      await wait(50);
    }
    await report('completed');
  } catch (error) {
    await report('failed');
    throw error;
  }
}

app.use(express.static(fileURLToPath(new URL('public', import.meta.url))));

const server = app.listen(Number(PORT), '127.0.0.1', (error) => {
  if (error) throw error;
  console.log(`application on port ${PORT}`);
});
process.once('SIGTERM', () => {
  server.close(() => events.close());
  server.closeIdleConnections();
});
