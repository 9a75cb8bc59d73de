//! What a connection's events say of its state.

use async_nats::Event;
use tokio::sync::watch;

use super::Role;

/// How a server begins to refuse a subscription by which micro services are found, in lower case.
const DISCOVERY_REFUSED: &str = "permissions violation for subscription to \"$srv.";

/// What happened to a connection so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Link {
    /// Whether it is up.
    pub connected: bool,
    /// How often it was lost.
    pub losses: u64,
    /// How often a subscription overflowed.
    pub overflows: u64,
    /// How often the server refused a subject.
    pub denials: u64,
    /// The server has refused a subscription, or taken it away, since the connection came up.
    pub refused: bool,
    /// The account may not listen to `$SRV.>`, where micro services are found. Nothing else needs it.
    pub unlisted: bool,
}

/// Moves the state on by an event.
pub(super) fn observe(link: &watch::Sender<Link>, role: &Role, event: &Event) {
    match event {
        Event::Connected => link.send_modify(|l| {
            // The client drops events when a burst of them, such as one for each message it had no room for, comes before
            // ours are taken: a connection that is up twice was lost in between.
            l.losses += u64::from(l.connected);
            l.connected = true;
            l.refused = false;
        }),
        Event::Disconnected => link.send_modify(|l| {
            l.connected = false;
            l.losses += 1;
        }),
        Event::SlowConsumer(_) => link.send_modify(|l| l.overflows += 1),
        Event::ServerError(error) => {
            // Said in words only; async-nats has no variant for it.
            let text = error.to_string();
            let lower = text.to_ascii_lowercase();
            if lower.contains(DISCOVERY_REFUSED) && *role != Role::Check {
                link.send_if_modified(|l| {
                    if !l.unlisted {
                        tracing::warn!(
                            "The NATS account may not subscribe to $SRV.>: `nats micro` does not list this sidecar"
                        );
                    }
                    !std::mem::replace(&mut l.unlisted, true)
                });
            } else if lower.contains("permissions violation") {
                link.send_modify(|l| {
                    l.denials += 1;
                    l.refused |= lower.contains("for subscription");
                });
                if *role != Role::Check {
                    tracing::warn!(connection = %role, error = nameless(&text), "The NATS account lacks a permission");
                }
            } else {
                tracing::warn!(connection = %role, %error, "NATS server error");
            }
        }
        Event::ClientError(error) if error.to_string().contains("authorization") => {
            tracing::warn!(connection = %role, %error, "NATS does not let this account in");
        }
        // While NATS is away there is one for each attempt; not all of them are written.
        Event::ClientError(error) => tracing::warn!(connection = %role, %error, "NATS cannot be reached"),
        Event::LameDuckMode => tracing::info!("NATS server announces its shutdown"),
        Event::Draining | Event::Closed => {}
    }
}

/// A violation as it may be logged. A subject of ours is one of a user: of it only the first token is told, which is enough to
/// find the permission. Subjects of the API and inboxes name nobody.
fn nameless(violation: &str) -> String {
    let quoted = violation.split_once('"').and_then(|(before, rest)| Some((before, rest.rsplit_once('"')?)));
    match quoted {
        Some((before, (subject, after))) if !subject.starts_with(['$', '_']) => {
            let first = subject.split('.').next().unwrap_or_default();
            format!("{before}\"{first}.…\"{after}")
        }
        _ => violation.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_that_was_not_reported_is_counted() {
        let (sender, link) = watch::channel(Link::default());
        let see = |event| {
            observe(&sender, &Role::Live, &event);
            *link.borrow()
        };
        assert_eq!(see(Event::Connected), Link { connected: true, ..Link::default() });
        // `Disconnected` found no room behind a burst of these.
        assert_eq!(see(Event::SlowConsumer(1)).overflows, 1);
        assert_eq!(see(Event::Connected).losses, 1);
        assert_eq!(see(Event::Disconnected), Link { connected: false, losses: 2, overflows: 1, ..Link::default() });
        assert_eq!(see(Event::Connected).losses, 2);
    }

    #[test]
    fn a_refused_subscription_is_refused_until_the_next_connection() {
        let (sender, link) = watch::channel(Link::default());
        let see = |event| {
            observe(&sender, &Role::Control, &event);
            *link.borrow()
        };
        let violation = |text: &str| Event::ServerError(async_nats::ServerError::Other(text.to_owned()));
        let publish = see(violation("Permissions Violation for Publish to \"x\""));
        assert_eq!((publish.denials, publish.refused), (1, false));
        let subscription = see(violation("Permissions Violation for Subscription to \"x\""));
        assert_eq!((subscription.denials, subscription.refused), (2, true));
        assert!(!see(Event::Connected).refused);
    }

    #[test]
    fn who_may_not_be_found_as_a_service_is_not_refused() {
        let (sender, link) = watch::channel(Link::default());
        let text = "Permissions Violation for Subscription to \"$SRV.PING.sidestream\"";
        let violation = Event::ServerError(async_nats::ServerError::Other(text.to_owned()));
        observe(&sender, &Role::Control, &violation);
        assert_eq!(*link.borrow(), Link { unlisted: true, ..Link::default() });
    }

    #[test]
    fn a_violation_names_no_user() {
        let of = |subject: &str| nameless(&format!("Permissions Violation for Subscription to \"{subject}\""));
        assert_eq!(of("live.alice.>"), "Permissions Violation for Subscription to \"live.…\"");
        assert_eq!(of("alice\".b"), "Permissions Violation for Subscription to \"alice\".…\"");
        assert!(of("$JS.API.STREAM.INFO.EVENTS").contains("\"$JS.API.STREAM.INFO.EVENTS\""));
        assert!(of("_INBOX_sidestream.x.*").ends_with("to \"_INBOX_sidestream.x.*\""));
        assert_eq!(nameless("no quotes"), "no quotes");
    }
}
