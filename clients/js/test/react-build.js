// Builds the application for both versions of React: a page with what a server renders, and its script.
// Usage: node test/react-build.js DIR

import { writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { buildSync } from "esbuild";
import { ALIAS } from "./react-versions.js";

const [home] = process.argv.slice(2);
const require = createRequire(import.meta.url);

/** What the server renders; the tests hydrate it with the same properties. */
const PROPERTIES = { url: "/events", listeners: ["a"], late: true };

for (const [version, alias] of Object.entries(ALIAS)) {
  const common = { bundle: true, alias, define: { "process.env.NODE_ENV": '"development"' } };
  const page = join(import.meta.dirname, "react-page.js");
  buildSync({
    ...common,
    entryPoints: [page],
    outfile: join(home, `react${version}.mjs`),
    format: "esm",
    target: "es2022",
  });

  const contents = `export { renderToString } from "react-dom/server";
export { createElement } from "react";
export * from "./react-app.js";`;
  const server = join(home, `server${version}.cjs`);
  const stdin = { contents, resolveDir: import.meta.dirname };
  buildSync({ ...common, stdin, outfile: server, format: "cjs", platform: "node" });
  const { App, createElement, renderToString } = require(server);
  const html = renderToString(createElement(App, PROPERTIES));
  writeFileSync(
    join(home, `react${version}.html`),
    `<!doctype html>
<meta charset="utf-8">
<title>A page with the hooks</title>
<div id="root">${html}</div>
<script type="module" src="react${version}.mjs"></script>
`,
  );
}
