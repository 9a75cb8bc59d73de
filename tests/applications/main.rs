//! The two applications of `examples/`, each with everything that it needs, as its `run` starts it: nginx, NATS, sidestream, itself.
//! Users sign in over HTTP and listen through nginx; the application and the sidecar are restarted under them; Chromium opens the page.

mod site;
mod start;
#[path = "../support/mod.rs"]
mod support;

use serde_json::{Value, json};
use site::{Example, Session, Site};
use support::{DEADLINE, Event, bounded};

/// The same for each application.
macro_rules! of_both {
    ($($(#[$meta:meta])* async fn $name:ident($site:ident: Site) $body:block)*) => {
        $(
            $(#[$meta])*
            mod $name {
                use super::*;

                async fn body($site: Site) $body

                async fn of(example: Example) {
                    let test = concat!("applications::", stringify!($name));
                    bounded(async {
                        if let Some(site) = Site::start(test, example).await {
                            body(site).await;
                        }
                    })
                    .await;
                }

                #[tokio::test]
                async fn of_express() {
                    of(Example::Express).await;
                }

                #[tokio::test]
                async fn of_fastapi() {
                    of(Example::Fastapi).await;
                }
            }
        )*
    };
}

fn data(event: &Event) -> Value {
    serde_json::from_str(&event.data).unwrap_or_else(|error| panic!("{event:?}: {error}"))
}

of_both! {
    async fn events_reach_whom_they_are_for(site: Site) {
        let (alice, bob) = (site.sign_in("alice").await, site.sign_in("bob").await);
        let (mut of_alice, mut of_bob) = (site.listen(&alice).await, site.listen(&bob).await);

        let order = site.post(&alice, "/orders", &json!({ "item": "tea" })).await;
        let event = of_alice.event().await;
        assert_eq!((event.name.as_str(), &data(&event)["order"]), ("order", &order["order"]));
        assert_eq!(data(&event)["item"], "tea");
        site.post(&bob, "/announcements", &json!({ "text": "closed on Monday" })).await;
        // Of alice's order bob has heard nothing: this is his first event.
        for listener in [&mut of_alice, &mut of_bob] {
            let event = listener.event().await;
            assert_eq!(event.name, "announcement");
            assert_eq!(data(&event), json!({ "from": "bob", "text": "closed on Monday" }));
        }

        let task = site.post(&alice, "/tasks", &json!({})).await;
        for percent in [0, 20, 40, 60, 80, 100] {
            let event = of_alice.event().await;
            let status = if percent == 100 { "completed" } else { "running" };
            assert_eq!(event.name, "progress");
            assert_eq!(data(&event), json!({ "task": task["task"], "percent": percent, "status": status }));
        }
        site.post(&alice, "/announcements", &json!({ "text": "done" })).await;
        assert_eq!(data(&of_bob.event().await)["text"], "done");
    }

    /// Only what the application says of a session counts.
    async fn nobody_speaks_for_another(site: Site) {
        let nobody = Session::default();
        assert_eq!(site.knock(&nobody, &[]).await, 401);
        assert_eq!(site.knock(&nobody, &[("X-Forwarded-User", "alice")]).await, 401);
        assert_eq!(site.knock(&nobody, &[("X-User-Id", "alice")]).await, 401);
        let bob = site.sign_in("bob").await;
        assert_eq!(site.knock(&bob.tampered(), &[]).await, 401);
        for path in ["/auth", "/auth/", "/AUTH", "/Auth/", "//auth", "/%61uth", "/auth%2f", "/x/../auth", "/auth/x"] {
            let answer = site.get(&bob, path).await.head;
            assert_eq!((answer.status, answer.header("x-user-id")), (404, None), "{path}");
        }
        assert_eq!(site.try_sign_in("mallory").await.head.status / 100, 4);

        let alice = site.sign_in("alice").await;
        let mut of_bob = site.listen_with(&bob, &[("X-Forwarded-User", "alice"), ("X_Forwarded_User", "alice")]).await;
        site.post(&alice, "/orders", &json!({ "item": "for alice alone" })).await;
        site.post(&bob, "/orders", &json!({ "item": "for bob" })).await;
        assert_eq!(data(&of_bob.event().await)["item"], "for bob");
    }

    /// What the page does, no other site can do in the user's name; what is no JSON is refused without a look behind the scenes.
    async fn only_its_own_pages_ask_for_something(site: Site) {
        let alice = site.sign_in("alice").await;
        let body = r#"{"item":"tea"}"#;
        let json = ("Content-Type", "application/json");
        for (headers, body, statuses) in [
            (vec![("Content-Type", "text/plain")], body, &[415][..]),
            (vec![("Content-Type", "application/x-www-form-urlencoded")], "item=tea", &[415]),
            (vec![], body, &[415]),
            (vec![json, ("Origin", "https://elsewhere.example")], body, &[403]),
            (vec![json, ("Origin", "null")], body, &[403]),
            (vec![json, ("Origin", "http://app.example")], body, &[201]),
            (vec![json], body, &[201]),
            (vec![json], "{\"item\":", &[400, 422]),
        ] {
            let answer = site.post_with(&alice, "/orders", &headers, body).await;
            assert!(statuses.contains(&answer.head.status), "{headers:?} {body}: {}", answer.text());
        }
        let broken = site.post_with(&alice, "/orders", &[json], "{\"item\":").await;
        assert_eq!(broken.head.header("content-type").map(|kind| kind.starts_with("application/json")), Some(true));
        assert!(!broken.text().contains("node_modules") && !broken.text().contains(".py"), "{}", broken.text());
    }

    async fn a_logout_ends_the_session_and_its_streams(site: Site) {
        let (alice, elsewhere) = (site.sign_in("alice").await, site.sign_in("alice").await);
        let mut listener = site.listen(&alice).await;
        site.post(&alice, "/logout", &json!({})).await;
        let goodbye = listener.event().await;
        assert_eq!((goodbye.name.as_str(), &data(&goodbye)["code"]), ("sidestream.bye", &json!("kicked")));
        // The cookie, as somebody may have kept it: nothing opens for it, before a restart and after.
        assert_eq!(site.knock(&alice, &[]).await, 401);
        assert_eq!(site.post_with(&alice, "/orders", &[("Content-Type", "application/json")], "{}").await.head.status, 401);
        site.restart("application").await;
        site.answers().await;
        assert_eq!(site.knock(&alice, &[]).await, 401);
        // The same user's other session lives.
        site.listen(&elsewhere).await;
    }

    async fn a_late_page_sees_how_each_task_ended(site: Site) {
        let alice = site.sign_in("alice").await;
        let mut early = site.listen(&alice).await;
        let task = site.post(&alice, "/tasks", &json!({})).await;
        while data(&early.event().await)["status"] != "completed" {}
        let told = site.open(&alice, &[]).await.until_named("sidestream.synced", DEADLINE).await;
        let (_, values) = told.split_last().expect("at least the marker");
        let values: Vec<_> = values.iter().map(data).collect();
        assert_eq!(values, [json!({ "task": task["task"], "percent": 100, "status": "completed" })]);
    }

    async fn restarts_cost_nothing(site: Site) {
        let alice = site.sign_in("alice").await;
        let mut listener = site.listen(&alice).await;
        // The application: its sessions hold, and no stream notices.
        site.restart("application").await;
        site.answers().await;
        site.post(&alice, "/orders", &json!({ "item": "behind a restart" })).await;
        assert_eq!(data(&listener.event().await)["item"], "behind a restart");

        // The sidecar: the stream ends, nginx answers in its place so that browsers come back, and what is published meanwhile is there
        // when it is opened again.
        let gap = site.interrupt("sidestream").await;
        let goodbye = listener.event().await;
        assert_eq!((goodbye.name.as_str(), &data(&goodbye)["code"]), ("sidestream.bye", &json!("drain")));
        let last = listener.last_event_id().to_owned();
        assert_eq!(listener.rest().await, []);
        assert_eq!(site.knock(&alice, &[]).await, 200);
        site.post(&alice, "/announcements", &json!({ "text": "while nobody listened" })).await;
        gap.close();
        let mut listener = site.listen_again(&alice, &last).await;
        assert_eq!(listener.resume(), "exact");
        assert_eq!(data(&listener.event_within(DEADLINE).await)["text"], "while nobody listened");
    }

    async fn the_page_works_in_chromium(site: Site) {
        site.open_page().await;
    }
}

/// Both have the same in front and the same page: who reads one has read the other.
#[test]
fn both_have_the_same_in_front() {
    for file in ["nginx.conf", "sidestream.toml", "public/index.html"] {
        let [express, fastapi] = [Example::Express, Example::Fastapi].map(|example| {
            std::fs::read_to_string(example.folder().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
        });
        assert!(express == fastapi, "{file} differs");
    }
}
