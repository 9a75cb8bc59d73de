// Drives one real browser by orders, one line of JSON each on standard input, and answers each with one line: `{"ok":
// value}` or `{"failed": text}`. Tabs of one context share cookies, workers and locks. Ends with its standard input.
// Usage: node drive.mjs chromium|firefox PROFILE_DIR
import { createInterface } from 'node:readline';
import { launch } from '../browser/browsers.mjs';

const [kind, profile] = process.argv.slice(2);
const browser = await launch(kind, profile);
const contexts = new Map();
const tabs = new Map();

const orders = {
  async context({ name }) {
    contexts.set(name, await browser.context());
  },
  async tab({ name, context, url }) {
    const page = await contexts.get(context).page();
    tabs.set(name, page);
    await page.goto(url);
    await page.waitForFunction(() => window.ready === true);
  },
  cookie: ({ tab, cookie }) =>
    tabs.get(tab).evaluate((text) => {
      document.cookie = text;
    }, cookie),
  // As text: what is passed on as it is has a limited depth in Firefox.
  async call({ tab, name, args }) {
    const text = await tabs
      .get(tab)
      .evaluate(async ([name, args]) => JSON.stringify((await window[name](...args)) ?? null), [name, args]);
    return JSON.parse(text);
  },
  async close({ tab }) {
    await tabs.get(tab).close();
    tabs.delete(tab);
  },
  offline: ({ context, value }) => contexts.get(context).offline(value),
  async crash({ tab }) {
    await browser.crash(tabs.get(tab));
    tabs.delete(tab);
  },
};

try {
  console.log(JSON.stringify({ ok: browser.version }));
  for await (const line of createInterface({ input: process.stdin })) {
    const { order, ...rest } = JSON.parse(line);
    try {
      console.log(JSON.stringify({ ok: (await orders[order](rest)) ?? null }));
    } catch (error) {
      console.log(JSON.stringify({ failed: `${order}: ${error.message}` }));
    }
  }
} finally {
  await browser.close();
}
