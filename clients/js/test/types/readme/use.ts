import { connect } from "@sidestream/client";

interface Events {
  order: { id: number; state: string };
  message: string;
}

const stream = connect<Events>("/events", {
  onGap: () => location.reload(),
  onState: ({ state, reason }) => console.log(state, reason),
});
const off = stream.on("order", ({ id, state }) => console.log(id, state));

off(); // this handler hears no more
stream.close(); // nothing is left: no timer, no listener, no request
