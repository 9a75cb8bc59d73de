import { connect } from "@sidestream/client/worker";

connect("/events", {
  key: "alice",
  worker: () => new SharedWorker("/static/sidestream-worker.js", { type: "module", name: "sidestream-1" }),
});
