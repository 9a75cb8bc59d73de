// Publishes events and progress that sidestream delivers to browsers, through the JetStream client of the application.
// Nothing here connects. What goes over the wire is the same as in the Rust and Python libraries beside this one.
export { Progress } from "./progress.js";
export { Publisher, type PublisherOptions } from "./publisher.js";
export type { JetStream, PublishOptions, Stored } from "./wire.js";
