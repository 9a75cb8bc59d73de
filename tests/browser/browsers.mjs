// Debian's Chromium (by the DevTools protocol) and Firefox (by WebDriver BiDi), with one way to open pages in them. Every name leads to
// this machine, any certificate will do, and each `page` is in a context of its own: cookies know no ports.

const chromiumFlags = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
  '--disable-component-update', '--disable-sync', '--ignore-certificate-errors', '--host-resolver-rules=MAP * 127.0.0.1'];

async function chromium() {
  const { chromium } = await import('playwright-core');
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', headless: true, args: chromiumFlags, timeout: 60_000,
  });
  const open = () => browser.newContext({ ignoreHTTPSErrors: true });
  return {
    version: `Chromium ${browser.version()}`,
    async page(cookie) {
      const context = await open();
      await context.addCookies([cookie]);
      return context.newPage();
    },
    async context() {
      const context = await open();
      return { page: () => context.newPage(), offline: (value) => context.setOffline(value) };
    },
    // The process of the page ends, without a word to the page. Nobody answers for it any more.
    async crash(page) {
      const session = await page.context().newCDPSession(page);
      const crashed = page.waitForEvent('crash');
      session.send('Page.crash').catch(() => {});
      await crashed;
    },
    close: () => browser.close(),
  };
}

async function firefox(profile) {
  const { launch } = await import('puppeteer-core');
  const browser = await launch({
    browser: 'firefox', executablePath: process.env.FIREFOX ?? '/usr/bin/firefox-esr', headless: true, userDataDir: profile,
    acceptInsecureCerts: true, timeout: 60_000,
    extraPrefsFirefox: {
      'network.dns.forceResolve': '127.0.0.1',
      // Nothing is asked of anybody but the proxies.
      'network.captive-portal-service.enabled': false, 'network.connectivity-service.enabled': false, 'app.update.enabled': false,
      'app.normandy.enabled': false, 'browser.safebrowsing.malware.enabled': false, 'browser.safebrowsing.phishing.enabled': false,
      'toolkit.telemetry.server': '', 'services.settings.server': 'data:,none', 'network.trr.mode': 5,
    },
  });
  return {
    version: await browser.version(),
    async page(cookie) {
      const context = await browser.createBrowserContext();
      await context.setCookie(cookie);
      return context.newPage();
    },
    async context() {
      const context = await browser.createBrowserContext();
      const pages = [];
      return {
        async page() {
          pages.push(await context.newPage());
          return pages.at(-1);
        },
        offline: (value) => Promise.all(pages.filter((page) => !page.isClosed()).map((page) => page.setOfflineMode(value))),
      };
    },
    close: () => browser.close(),
  };
}

// `kind`: chromium or firefox. `profile`: an empty directory. Gives `version`, `page(cookie)`, `context()`, which gives pages that share
// cookies, workers and locks, and `close()`.
export function launch(kind, profile) {
  return { chromium, firefox }[kind](profile);
}
