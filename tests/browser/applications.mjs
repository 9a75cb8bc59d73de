// Opens the page of an application of `examples/` in Chromium twice, as alice and as bob, presses its buttons, and looks at what it shows.
// Usage: node applications.mjs URL
import assert from 'node:assert/strict';
import { chromium } from 'playwright-core';

const [url] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', headless: true, args: ['--no-sandbox', '--disable-gpu', '--no-first-run'],
});
try {
  const problems = [];
  const open = async (user) => {
    const page = await (await browser.newContext()).newPage();
    page.setDefaultTimeout(20_000);
    page.on('pageerror', (error) => problems.push(`${user}: ${error.message}`));
    await page.goto(url);
    // Nobody is signed in: the stream is answered with 401, which ends an EventSource.
    await shows(page, '#state', 'signed out');
    await page.locator(`[data-user=${user}]`).click();
    await shows(page, '#state', 'connected');
    return page;
  };
  const shows = (page, where, text) => page.locator(where, { hasText: text }).first().waitFor();

  const [alice, bob] = [await open('alice'), await open('bob')];
  await alice.locator('#order').click();
  await shows(alice, '#events li', 'your order');
  await alice.locator('#task').click();
  await shows(alice, '#tasks li', '100 %, completed');
  await alice.locator('#announce').click();
  await shows(alice, '#events li', 'alice to everybody: tea is ready');
  await shows(bob, '#events li', 'alice to everybody: tea is ready');
  assert.equal(await bob.locator('#events li').count(), 1, 'bob sees the announcement only');
  assert.equal(await bob.locator('#tasks li').count(), 0, 'bob sees no task');
  // A page that is opened late: what has been said last is there by the time it is up to date, and each event once.
  await alice.reload();
  await shows(alice, '#state', 'connected, up to date');
  assert.match(await alice.locator('#tasks li').innerText(), /100 %, completed$/);
  assert.equal(await alice.locator('#events li').count(), 2, 'the order and the announcement');
  await alice.locator('#leave').click();
  await shows(alice, '#state', 'signed out');
  assert.deepEqual(problems, []);
} finally {
  await browser.close();
}
