import { connect } from "@sidestream/client";

connect("/events", {
  onError(fault) {
    if (fault.type !== "connection" || !fault.final) return;
    const { reason } = fault;
    if (reason.type === "refused" && reason.status === 401) location.assign("/login");
  },
});
