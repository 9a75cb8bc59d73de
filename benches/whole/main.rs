//! What the whole process costs, beside the floor and beside nchan, in the same run.
//!
//! ```sh
//! scripts/bench                                             # everything, with what it needs fetched
//! cargo bench --bench whole -- fanout 1000 5000 15000       # one scenario, so many connections
//! cargo bench --bench whole -- burst 1000 plain nchan       # only these beside the floor
//! ```
//!
//! Scenarios: `fanout`, `burst`, `instructions`, `saturation`, `users`, `idle`, `connects`, `heartbeat`, `storm`; each file
//! says what it measures. Who is measured: `plain`, `tls`, `h2`, `h2c` (sidestream), `nchan`, `nchan-tls`, `nchan-h2`; and
//! `seed=N`, `rounds=N`, `seconds=N`, `keep=DIR`.
//!
//! The floor is a process that makes one write of the same bytes per connection and event, and nothing else. Who is
//! measured runs on one core, one at a time, and the readers, the publisher and NATS on another. Figures are CPU time of
//! the process from `/proc/PID/task/*/schedstat`; in each round the order is random, and a ratio is to the floor of the
//! same round. On loopback the sender also pays for the receiver's half of the kernel's work.

mod bench;
mod callgrind;
mod certificate;
mod child;
mod clock;
mod connects;
mod engine;
mod floor;
mod framing;
mod heartbeat;
mod idle;
mod instructions;
mod machine;
mod nchan;
mod options;
mod readers;
mod rounds;
mod saturation;
mod statistics;
mod storm;
#[path = "../support/mod.rs"]
mod support;
mod turns;
mod users;
mod wire;

use options::{Options, Scenario};
use support::process::{OTHER_CORE, pin, raise_descriptors};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let descriptors = raise_descriptors();
    match arguments.first().map(String::as_str) {
        Some(floor::PRIVATE) => return floor::process::run(),
        Some(readers::PRIVATE) => return readers::process::run(&arguments[1..]),
        _ => {}
    }
    let options = Options::parse(&arguments).unwrap_or_else(|fault| {
        eprintln!("{fault}");
        std::process::exit(64);
    });
    machine::describe(&options, descriptors);
    pin(OTHER_CORE);
    for scenario in &options.scenarios {
        let sizes = options.sizes(*scenario, descriptors);
        match scenario {
            Scenario::Fanout => rounds::run(&options, &sizes, 1),
            Scenario::Burst => rounds::run(&options, &sizes, rounds::BURST),
            Scenario::Instructions => instructions::run(&options, &sizes),
            Scenario::Saturation => saturation::run(&options, &sizes),
            Scenario::Users => users::run(&options, &sizes),
            Scenario::Idle => idle::run(&options, &sizes),
            Scenario::Connects => connects::run(&options, &sizes),
            Scenario::Heartbeat => heartbeat::run(&options, &sizes),
            Scenario::Storm => storm::run(&options, &sizes),
        }
    }
}
