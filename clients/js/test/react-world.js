// The hooks with one React or the other: this package's scripts, React and a renderer in one bundle, loaded anew for
// each test, so that no connection and no context outlives one.

import { mkdtempSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after } from "node:test";
import { buildSync } from "esbuild";
import { ALIAS } from "./react-versions.js";
import { settle } from "./world.js";

const require = createRequire(import.meta.url);
const home = mkdtempSync(join(tmpdir(), "sidestream-react-"));
after(() => rmSync(home, { recursive: true }));

// React finds no `setImmediate` in a bundle, and the ports that it takes instead would keep the process.
globalThis.MessageChannel = class {
  port1 = {};
  port2 = { postMessage: () => setImmediate(() => this.port1.onmessage()) };
};

const ENTRY = `
export * as React from "react";
export * as hooks from "./dist/react.js";
export { act, create } from "react-test-renderer";
export { renderToString } from "react-dom/server";
`;

export const VERSIONS = Object.keys(ALIAS);

for (const version of VERSIONS) {
  buildSync({
    stdin: { contents: ENTRY, resolveDir: join(import.meta.dirname, "..") },
    outfile: join(home, `${version}.cjs`),
    alias: ALIAS[version],
    bundle: true,
    platform: "node",
    format: "cjs",
    define: { "process.env.NODE_ENV": '"development"' },
  });
}

/** React, a renderer and the hooks, as in a browser, or as on a server. */
export function load(version, { server = false } = {}) {
  const path = join(home, `${version}.cjs`);
  delete require.cache[path];
  if (!server) globalThis.document = {};
  try {
    return require(path);
  } finally {
    delete globalThis.document;
  }
}

/** A place for elements, and what React complained of. */
export function app(t, version) {
  const { React, hooks, act, create } = load(version);
  const complaints = [];
  const { error } = console;
  console.error = (...args) => void complaints.push(args.join(" "));
  globalThis.IS_REACT_ACT_ENVIRONMENT = true;
  t.after(() => {
    console.error = error;
    delete globalThis.IS_REACT_ACT_ENVIRONMENT;
  });
  let root;
  const run = (what) =>
    act(async () => {
      await what();
      await settle();
    });
  return {
    React,
    hooks,
    h: React.createElement,
    /** Lets React do all that follows from this. */
    run,
    /** Shows this in the place of what was there, twice mounted in development as StrictMode does. */
    render: (element) =>
      run(() => {
        const whole = React.createElement(React.StrictMode, null, element);
        if (root) root.update(whole);
        else root = create(whole, { unstable_isConcurrent: true, unstable_strictMode: true });
      }),
    unmount: () =>
      run(() => {
        root?.unmount();
        root = undefined;
      }),
    text: () => JSON.stringify(root.toJSON()),
    /** A test has looked at the complaints, or caused them. */
    forget: () => void (complaints.length = 0),
    /** Without what the renderer says of itself. */
    complaints: () => complaints.filter((text) => !text.includes("react-test-renderer is deprecated")),
  };
}
