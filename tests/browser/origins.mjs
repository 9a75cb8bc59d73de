// Pages of several origins in Debian's Chromium try to open alice's stream through a real proxy, with her cookie: the site's own page and
// one of an allowed origin can, pages of foreign origins cannot, be they of the same site or not.
// Usage: node origins.mjs PORT PROFILE_DIR
import assert from 'node:assert/strict';
import { mkdir, writeFile } from 'node:fs/promises';
import { chromium } from 'playwright-core';

const [port, profile] = process.argv.slice(2);
// Every name leads to the proxy, on its port; the certificate is of a test.
const flags = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
  '--disable-component-update', '--disable-sync', '--ignore-certificate-errors', `--host-resolver-rules=MAP * 127.0.0.1:${port}`];
// Cookies of other sites are sent, as in browsers that have not stopped it: what protects the stream must not be that.
await mkdir(`${profile}/Default`, { recursive: true });
await writeFile(`${profile}/Default/Preferences`, JSON.stringify({ profile: { cookie_controls_mode: 0, block_third_party_cookies: false } }));
const browser = await chromium.launchPersistentContext(profile, {
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', headless: true, args: flags, timeout: 60_000, ignoreHTTPSErrors: true,
});
try {
  // Sent wherever it can be sent: what protects the stream is not the cookie's own attribute.
  await browser.addCookies([
    { name: 'session', value: 'alice', domain: 'events.example.com', path: '/', secure: true, httpOnly: true, sameSite: 'None' },
  ]);
  const page = await browser.newPage();
  page.setDefaultTimeout(20_000);
  // What becomes of an EventSource: the first event, or the end for good.
  const listen = (origin) => page.goto(`${origin}/`).then(() => page.evaluate(() => new Promise((resolve) => {
    const source = new EventSource('https://events.example.com/events', { withCredentials: true });
    source.addEventListener('sidestream.connected', () => { source.close(); resolve('connected'); });
    source.onerror = () => { if (source.readyState === EventSource.CLOSED) resolve('refused'); };
  })));
  const fetched = (mode) => page.evaluate((how) => fetch('https://events.example.com/events', { mode: how, credentials: 'include' })
    .then((response) => response.type === 'opaque' ? 'opaque' : response.text(), () => 'failed'), mode);

  assert.equal(await listen('https://events.example.com'), 'connected', 'the page of the site itself');
  assert.equal(await listen('https://app.example.com'), 'connected', 'a page of an allowed origin');
  for (const origin of ['https://evil.example.com', 'https://evil.example', 'https://app.example.com.evil.example', 'https://app.example.com:8443']) {
    assert.equal(await listen(origin), 'refused', origin);
    assert.equal(await fetched('cors'), 'failed', `fetch from ${origin}`);
  }
  // Without CORS nothing can be read, but a stream would be held open: from another site it is refused as well.
  const answered = page.waitForResponse(/\/events$/);
  await page.goto('https://evil.example/');
  assert.equal(await fetched('no-cors'), 'opaque');
  assert.equal((await answered).status(), 403, 'a request without CORS from another site');
  console.log('Chromium', browser.browser()?.version() ?? '', 'opened no stream for a foreign page');
} finally {
  await browser.close();
}
