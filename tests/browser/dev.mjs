// Opens the demo page in Debian's Chromium as alice and checks what she hears: her own and the broadcasts, not bob's;
// then cuts the connection by the page's button and sees it come back and resume. Last, the example page shows an event.
// Usage: node dev.mjs URL PROFILE_DIR SCREENSHOT.png
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { chromium } from 'playwright-core';

const [url, profile, screenshot] = process.argv.slice(2);
const base = new URL(url).origin;
const flags = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
  '--disable-background-networking', '--disable-component-update', '--disable-sync'];
const browser = await chromium.launchPersistentContext(profile, {
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', headless: true, args: flags, timeout: 60_000,
});
try {
  const problems = [];
  const open = async (user) => {
    const page = await browser.newPage();
    page.setDefaultTimeout(20_000);
    page.on('pageerror', (error) => problems.push(`${user}: ${error.message}`));
    await page.goto(url);
    const field = page.locator('#user');
    if (await field.evaluate((element) => element.tagName) === 'SELECT') await field.selectOption(user);
    else await field.fill(user);
    // Some pages connect by themselves; the button is pressed only where the page is not open as this user.
    await page.locator('#connect').click();
    await page.locator('#status', { hasText: 'open' }).waitFor();
    return page;
  };
  const send = async (page, button, text) => {
    await page.locator('#message').fill(text);
    await page.locator(button).click();
  };
  const shows = (page, text) => page.locator('#events > *', { hasText: text }).first().waitFor();
  const count = (page, text) => page.locator('#events > *', { hasText: text }).count();

  const alice = await open('alice');
  const bob = await open('bob');
  await send(alice, '#send-user', 'first-for-alice');
  await shows(alice, 'first-for-alice');
  await send(bob, '#send-user', 'only-for-bob');
  await shows(bob, 'only-for-bob');
  // A later broadcast is the marker: what alice was to get before it, she has by then.
  await send(bob, '#send-all', 'for-everybody');
  await shows(alice, 'for-everybody');
  await shows(bob, 'for-everybody');
  assert.equal(await count(alice, 'only-for-bob'), 0, "alice sees bob's event");
  assert.equal(await count(bob, 'first-for-alice'), 0, "bob sees alice's event");

  const item = alice.locator('#events > *', { hasText: 'first-for-alice' }).first();
  assert.match(await item.getAttribute('data-id'), /^[0-9a-z]+\.[0-9a-z]+\.[0-9a-z]+$/, 'the event has a cursor');
  assert.ok(await item.getAttribute('data-event'), 'the event has a name');

  // Sent to alice by another page while she may be away: the cut must cost nothing and double nothing.
  await alice.locator('#cut').click();
  await send(bob, '#send-all', 'while-alice-is-away');
  await alice.locator('#status', { hasText: 'open' }).waitFor();
  await shows(alice, 'while-alice-is-away');
  await send(bob, '#send-all', 'after-the-cut');
  await shows(alice, 'after-the-cut');
  for (const text of ['first-for-alice', 'for-everybody', 'while-alice-is-away', 'after-the-cut']) {
    assert.equal(await count(alice, text), 1, `${text}: not exactly once`);
  }
  await alice.screenshot({ path: screenshot, fullPage: true });

  // The example page, served from the same origin as /events, with a proxy's part (who it is) played here.
  const example = await browser.newPage();
  const html = await readFile(new URL('../../examples/page/index.html', import.meta.url), 'utf8');
  await example.route('**/example', (route) => route.fulfill({ contentType: 'text/html; charset=utf-8', body: html }));
  await example.route(/\/events$/, (route) => route.continue({ url: `${base}/events?user=alice` }));
  const opened = example.waitForRequest(/\/events/);
  await example.goto(`${base}/example`);
  await opened;
  // Sent until the page listens: it shows nothing by which that could be seen.
  const listed = example.locator('#list > li', { hasText: 'for-the-example' }).first().waitFor();
  let seen = false;
  listed.then(() => { seen = true; }, () => {});
  for (let i = 0; i < 50 && !seen; i += 1) {
    await send(bob, '#send-all', '{"text":"for-the-example"}');
    await Promise.race([listed, new Promise((resolve) => setTimeout(resolve, 200))]);
  }
  await listed;
  assert.deepEqual(problems, [], 'errors on the page');
  console.log('Chromium', browser.browser()?.version() ?? '', 'saw what alice may see, and resumed');
} finally {
  await browser.close();
}
