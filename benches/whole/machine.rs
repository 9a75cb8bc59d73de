//! What a reader of the figures must know about the machine and the run.

use crate::nchan::Nchan;
use crate::options::Options;
use crate::support::nats::Nats;

/// Prints it.
pub fn describe(options: &Options, descriptors: u64) {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let information = read("/proc/cpuinfo");
    let model = information.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    println!(
        "- machine: {}, {cores} cores, Linux {}",
        model.map_or("?", |(_, model)| model),
        read("/proc/sys/kernel/osrelease")
    );
    println!("- load average at the start: {}", read("/proc/loadavg"));
    println!("- sidestream {}, nats-server {}, {}", env!("CARGO_PKG_VERSION"), Nats::version(false), Nchan::version());
    println!("- descriptors of a process: {descriptors}; seed={}", options.seed);
    if !Nchan::is_here() {
        println!(
            "- **NCHAN IS NOT MEASURED**: `scripts/bench` fetches it, or name nginx and its module in NGINX_PROGRAM and NCHAN_MODULE"
        );
    }
}
