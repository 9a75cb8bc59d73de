//! Signals to child processes, by pid.

use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Sends a signal.
pub fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).expect("our own child can be signalled");
}

/// `SIGSTOP`, and waits until it has taken effect: thread by thread, some time after it was sent.
pub fn stop(child: &Child) {
    signal(child, Signal::STOP);
    let tasks = format!("/proc/{}/task", child.id());
    let started = Instant::now();
    while !std::fs::read_dir(&tasks).expect("the child's threads").flatten().all(|task| is_stopped(&task.path())) {
        assert!(started.elapsed() < Duration::from_secs(10), "SIGSTOP has not stopped the process");
        std::thread::yield_now();
    }
}

/// Whether a thread is in the state `T` of proc(5); one that has just ended counts as well.
fn is_stopped(task: &Path) -> bool {
    let Ok(stat) = std::fs::read_to_string(task.join("stat")) else { return true };
    // The state follows the name, which may hold anything but ends with the last parenthesis.
    stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('T'))
}
