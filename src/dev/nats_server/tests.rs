//! The search's pure parts, and the life of a real server where one is installed.

use super::*;

#[test]
fn versions_are_read_and_compared() {
    assert_eq!(Version::parse("nats-server: v2.15.1\n"), Some(Version(2, 15, 1)));
    assert_eq!(Version::parse("nats-server: v2.11.0-RC.1"), Some(Version(2, 11, 0)));
    assert_eq!(Version::parse("nats-server: v2.9"), None);
    assert_eq!(Version::parse(""), None);
    assert!(Version(2, 9, 10) < GOOD_ENOUGH && Version(2, 10, 0) >= GOOD_ENOUGH && Version(2, 9, 10) >= OLDEST);
}

#[test]
fn logins_are_not_shown() {
    assert_eq!(without_login("nats://user:p@ss@host:4222"), "nats://host:4222");
    assert_eq!(without_login("user:secret@host"), "host");
    assert_eq!(without_login("nats://host"), "nats://host");
}

#[test]
fn an_answer_with_an_error_is_no_jetstream() {
    assert!(has_error(br#"{"error":{"code":503,"err_code":10039}}"#));
    assert!(has_error(b"not json"));
    assert!(!has_error(br#"{"memory":0}"#));
}

#[tokio::test]
async fn a_named_server_that_is_away_is_an_error_and_nothing_is_started() {
    let options = Options { url: Some("nats://secret:login@127.0.0.1:1".to_owned()), yes: true };
    let error = ensure(&options).await.expect_err("nothing listens on port 1").to_string();
    assert!(error.contains("nats://127.0.0.1:1") && !error.contains("secret"), "{error}");
}

#[tokio::test]
async fn a_server_of_ours_ends_with_its_value_and_takes_its_directory_along() {
    let Some(candidate) = installed().await.into_iter().next() else { return };
    for patient in [true, false] {
        let server = start(&candidate.path, None).await.expect("it starts");
        let child = server.child.as_ref().expect("it is ours");
        let (pid, directory) = (child.id().expect("it runs"), child.directory().to_owned());
        assert!(directory.is_dir() && server.url.starts_with("nats://127.0.0.1:"), "{server:?}");
        if patient {
            server.stop().await;
        } else {
            drop(server);
        }
        assert!(!directory.exists());
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    }
}

#[tokio::test]
async fn a_program_that_dies_at_once_is_named() {
    let error = start(Path::new("/bin/false"), None).await.expect_err("it does not serve");
    assert!(error.to_string().starts_with("/bin/false did not start"), "{error}");
}
