import { connect } from "@sidestream/client/worker";

const stream = connect("/events", { key: "alice" });
stream.on("order", (order, { cached }) => console.log(cached ? "from before" : "new", order));
