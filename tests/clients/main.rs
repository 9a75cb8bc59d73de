//! `@sidestream/client`, the package for browsers: what is in it and that it is sound, and what it does in real
//! Chromium and Firefox, with the real sidecar behind a real nginx, while everything between the page and NATS
//! breaks.
//!
//! Each page writes down what its handlers heard; the tests compare that with what was published.
//! `tests/clients/*.mjs` drive the browsers, `clients/js/test` holds what needs none.

#[path = "../support/mod.rs"]
mod support;

mod browser;
mod endings;
mod network;
mod package;
mod page;
mod react;
mod shared;
mod site;
mod survival;
mod values;
