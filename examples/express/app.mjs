// An application as a team has it: sessions, orders, announcements, long tasks. It holds no stream: it publishes (publish.mjs), and tells
// nginx who a session belongs to (`/auth`), once for each stream. Started by ./run, behind nginx.
import { randomUUID } from 'node:crypto';
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { setTimeout as wait } from 'node:timers/promises';
import session from 'cookie-session';
import express from 'express';
import { publisher } from './publish.mjs';

const { PORT, NATS_URL, SESSION_SECRET, SESSIONS, ADMIN_URL, ADMIN_TOKEN_FILE } = process.env;
const USERS = new Set(['alice', 'bob']); // a demonstration: whoever says a name is it
const HOUR = 3600;

const events = await publisher(NATS_URL);
const app = express();
app.disable('x-powered-by');
// `/AUTH` and `/auth/` are not `/auth`, for nginx keeps that from others.
app.enable('case sensitive routing');
app.enable('strict routing');
// Signed, and out of reach of scripts and of other sites' requests. Add `secure: true` where nginx speaks TLS.
app.use(session({ name: 'session', keys: [SESSION_SECRET], httpOnly: true, sameSite: 'lax', maxAge: HOUR * 1000 }));
// Other sites' forms cannot send JSON, and their scripts are not this origin.
app.use((request, response, next) => {
  const { origin, host } = request.headers;
  if (origin !== undefined && origin.replace(/^https?:\/\//, '') !== host) return response.sendStatus(403);
  if (request.method === 'POST' && !request.is('application/json')) return response.sendStatus(415);
  next();
});
app.use(express.json({ limit: '16kb' }));

// A file for each session that lives, as a row in your database: the cookie alone is worth nothing after the logout.
const alive = (id) => join(SESSIONS, id);
const known = ({ session: { user, id, expires } }) =>
  USERS.has(user) && expires > Date.now() / 1000 && existsSync(alive(id)) ? user : undefined;
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
  const id = randomUUID();
  writeFileSync(alive(id), '');
  request.session = { user, id, expires: Math.floor(Date.now() / 1000) + HOUR };
  response.sendStatus(204);
});

// First the session, then its streams: a browser comes back by itself, and is let in for as long as its session lives.
app.post('/logout', async (request, response) => {
  const user = known(request);
  if (user) {
    rmSync(alive(request.session.id));
    await kick(user).catch((error) => console.error(`streams of ${user}:`, error));
  }
  request.session = null;
  response.sendStatus(204);
});

// Ends the user's streams on all sidecars. Without an admin listener to ask they go on until the session would have ended.
async function kick(user) {
  if (!ADMIN_URL) return;
  const headers = { Authorization: `Bearer ${readFileSync(ADMIN_TOKEN_FILE, 'utf8')}` };
  const url = `${ADMIN_URL}/kick?user=${encodeURIComponent(user)}`;
  const { ok, status } = await fetch(url, { method: 'POST', headers, signal: AbortSignal.timeout(5000) });
  if (!ok) throw new Error(`kick: status ${status}`);
}

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

// The last: what went wrong, without its stack. What is ours goes to the log.
app.use((error, request, response, next) => {
  const status = error.status ?? 500;
  if (status >= 500) console.error(error);
  if (response.headersSent) return next(error);
  response.status(status).json({ error: status < 500 ? error.message : 'something went wrong' });
});

const server = app.listen(Number(PORT), '127.0.0.1', (error) => {
  if (error) throw error;
  console.log(`application on port ${PORT}`);
});
process.once('SIGTERM', () => {
  server.close(() => events.close());
  server.closeIdleConnections();
});
