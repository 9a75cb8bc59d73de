// The hooks on a server: nothing is opened, and nothing is complained of.

import assert from "node:assert/strict";
import { test } from "node:test";
import { load, VERSIONS } from "./react-world.js";

for (const version of VERSIONS) {
  test(`React ${version}: a server opens nothing and shows what a browser begins with`, (t) => {
    const complaints = t.mock.method(console, "error", () => {});
    t.mock.method(globalThis, "fetch", () => assert.fail("a request"));
    const timers = t.mock.method(globalThis, "setTimeout");
    const { React, hooks, renderToString } = load(version, { server: true });
    const h = React.createElement;
    function Page() {
      const { status } = hooks.useSidestream();
      const own = hooks.useSidestream("/own", { headers: () => ({}), lastEventId: "e.1.1" });
      hooks.useEvent("note", () => {});
      hooks.useEvent("note", () => {}, own);
      const last = hooks.useLastEvent("note");
      return h("p", null, JSON.stringify([status, own.status, last ?? null]));
    }
    // Relative, as in the page: a server has nothing that it could be relative to.
    const html = renderToString(h(React.StrictMode, null, h(hooks.SidestreamProvider, { url: "/events" }, h(Page))));
    const connecting = '{"state":"connecting","attempt":0,"lastEventId":""}'.replaceAll('"', "&quot;");
    assert.equal(html, `<p>[${connecting},${connecting},null]</p>`);
    assert.equal(complaints.mock.callCount(), 0, JSON.stringify(complaints.mock.calls.map(({ arguments: a }) => a)));
    assert.equal(timers.mock.callCount(), 0);
  });
}
