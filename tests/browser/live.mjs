// Opens the live page of the admin listener in Chromium, looks at what it shows, and presses its buttons.
// Usage: node live.mjs URL PROFILE SHOT TOKEN empty|busy|drain. Writes SHOT-light.png and SHOT-dark.png.
import assert from 'node:assert/strict';
import { chromium } from 'playwright-core';

const [url, profile, shot, token, scene] = process.argv.slice(2);
const browser = await chromium.launchPersistentContext(profile, {
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  args: ['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage'],
  viewport: { width: 1200, height: 860 },
});
const problems = [];
try {
  const page = await browser.newPage();
  page.on('pageerror', (error) => problems.push(error.message));
  // A 401 before the token is given is told there as well.
  page.on('console', (message) => message.type() === 'error' && !message.text().includes('401') && problems.push(message.text()));
  page.on('request', (request) => new URL(request.url()).origin !== new URL(url).origin && !request.url().startsWith('data:')
    && problems.push(`asked elsewhere: ${request.url()}`));
  await page.goto(url);
  const text = (id) => page.locator(`#${id}`).innerText();
  const shows = (id, pattern) => page.waitForFunction(([id, pattern]) => new RegExp(pattern).test(document.getElementById(id).innerText), [id, pattern], { timeout: 30000 });

  await page.locator('#token-form').waitFor();
  assert.match(await text('notice'), /admin token/);
  await page.locator('#token').fill('wrong-token-of-some-length');
  await page.locator('#token-form button').click();
  await shows('notice', 'not the token');
  let streams = 0;
  page.on('request', (request) => new URL(request.url()).pathname === '/live' && streams++);
  await page.locator('#token').fill(token);
  // However often the button is pressed, one stream is opened.
  await page.locator('#token-form').evaluate((form) => [1, 2, 3].forEach(() => form.requestSubmit()));
  await shows('ready', 'ready');
  assert.equal(await text('notice'), '');

  if (scene === 'empty') {
    await shows('n-connections', '^0$');
    await shows('t-slowest', 'Nobody');
    await shows('t-nats', 'stream EVENTS.*read');
  } else {
    await shows('n-connections', '^63$');
    await shows('t-slowest', 'stalled-0');
    await shows('n-events', '[1-9]');
    await shows('n-latency', '(ms|µs)');
    await shows('n-queued', '(KiB|MiB)');
    await shows('t-resumes', 'new\\s+63');
  }
  // A curve has its beginning behind it.
  await page.waitForFunction(() => (document.querySelector('#g-connections polyline')?.getAttribute('points') ?? '').split(' ').length > 6);
  assert.equal(streams, 1, 'streams that the page opened');
  for (const colorScheme of ['light', 'dark']) {
    await page.emulateMedia({ colorScheme });
    await page.screenshot({ path: `${shot}-${colorScheme}.png`, fullPage: true });
  }
  const overflow = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  assert.ok(overflow <= 0, `${overflow} pixels wider than the window`);

  // A long name of a user pushes nothing out of sight.
  for (const button of await page.locator('#t-slowest button').all()) {
    const [inner, outer] = [await button.boundingBox(), await page.locator('.scroll').boundingBox()];
    assert.ok(inner.x + inner.width <= outer.x + outer.width, 'a button is out of sight');
  }

  if (scene === 'drain') {
    await page.locator('#t-slowest button').first().click();
    await shows('t-life', 'closed: kicked\\s+1');
    const asked = [];
    page.once('dialog', (dialog) => { asked.push(dialog.message()); dialog.dismiss(); });
    await page.locator('#drain').click();
    assert.match(asked[0], /Close 62 streams/);
    page.once('dialog', (dialog) => dialog.accept());
    await page.locator('#drain').click();
    await shows('ready', 'draining');
    await shows('drain', 'Draining: [0-9]+ left');
    await shows('n-connections', '^0$');
    await shows('t-life', 'closed: drain\\s+6');
  }
  assert.deepEqual(problems, [], 'errors on the page');
  console.log(`Chromium saw the live page, ${scene}`);
} finally {
  await browser.close();
}
