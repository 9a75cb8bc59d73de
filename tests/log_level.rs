//! What is logged can be changed while the program runs. A process of its own: there is one log in each.

use sidestream::config::load::{Sources, load_text};
use sidestream::telemetry::{access, log};
use tracing::Level;

#[test]
fn the_level_can_be_changed_and_a_bad_one_changes_nothing() {
    let text = "version = 1\n[log]\nlevel = \"warn\"\n";
    let config = load_text("test", text, &Sources::default()).expect("a configuration").config;
    let log = log::start(&config).expect("a level");
    let ours = || tracing::enabled!(target: "sidestream::feed", Level::INFO);
    let streams = || tracing::enabled!(target: access::TARGET, Level::INFO);
    let library = || tracing::enabled!(target: "async_nats", Level::INFO);
    assert_eq!((ours(), streams(), library()), (false, false, false));
    log.set_level("info").expect("a level");
    assert_eq!((ours(), streams(), library()), (true, true, false));
    log.set_level("info,sidestream::access=off,async_nats=info").expect("a filter");
    assert_eq!((ours(), streams(), library()), (true, false, true));
    let error = log.set_level("info,sidestream=loud").expect_err("no level");
    assert!(error.to_string().starts_with("log.level: "), "{error}");
    assert_eq!((ours(), streams(), library()), (true, false, true));
    log.set_level("error").expect("a level");
    assert_eq!((ours(), streams(), library()), (false, false, false));
}
