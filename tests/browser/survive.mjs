// Pages in one real browser hold a native EventSource each, through a proxy each, and write down what becomes of it.
// Usage: node survive.mjs chromium|firefox PROFILE_DIR SITES, where SITES is JSON: [{"name", "port", "cookie"}, ...].
// Prints `ready`, then for every line of standard input one line of JSON: for each site the state of its EventSource and all
// that it was told. Ends with its standard input.
import { createInterface } from 'node:readline';
import { launch } from './browsers.mjs';

const [kind, profile, sites] = process.argv.slice(2);

// Runs in the page. What a page may see of its EventSource, in order.
const listen = () => {
  window.told = [];
  const source = window.source = new EventSource('/events');
  const tell = (what) => window.told.push(what);
  source.onopen = () => tell({ open: true });
  source.onerror = () => tell({ error: source.readyState });
  source.onmessage = (event) => tell({ data: event.data, id: event.lastEventId });
  for (const name of ['connected', 'gap', 'bye']) {
    source.addEventListener(`sidestream.${name}`, (event) => tell({ [name]: JSON.parse(event.data) }));
  }
};
const report = () => ({ state: window.source.readyState, told: window.told });

const browser = await launch(kind, profile);
try {
  const pages = [];
  for (const { name, port, cookie } of JSON.parse(sites)) {
    const page = await browser.page({ name: 'session', value: cookie, domain: 'events.example.com', path: '/', secure: true, httpOnly: true });
    await page.goto(`https://events.example.com:${port}/`);
    await page.evaluate(listen);
    pages.push({ name, page });
  }
  console.log('ready');
  for await (const _ of createInterface({ input: process.stdin })) {
    const reports = await Promise.all(pages.map(async ({ name, page }) => ({ name, ...await page.evaluate(report) })));
    console.log(JSON.stringify(reports));
  }
} finally {
  await browser.close();
}
