// The page of the application: shows it, hydrates it, and reports. The driver of the tests calls what stands in
// `window`.

import { createElement as h, version } from "react";
import { createRoot, hydrateRoot } from "react-dom/client";
import { App, heard, seen } from "./react-app.js";

const complaints = [];
console.error = (...args) => complaints.push(args.map(String).join(" "));
window.addEventListener("error", ({ message }) => complaints.push(message));

const root = document.getElementById("root");
let shown;

/** Shows the application; nothing, without properties. */
window.show = (properties) => {
  shown ??= createRoot(root);
  shown.render(properties && h(App, properties));
};
/** Takes over what the server has rendered, which must be what is rendered here. */
window.hydrate = (properties) => {
  shown = hydrateRoot(root, h(App, properties), { onRecoverableError: (error) => complaints.push(error.message) });
};
window.report = () => {
  const status = document.getElementById("status");
  return {
    version,
    heard,
    seen,
    complaints,
    html: root.innerHTML,
    status: status?.textContent ?? "",
    connection: status?.dataset.connection ?? "",
    late: document.getElementById("late")?.textContent ?? "",
  };
};
window.ready = true;
