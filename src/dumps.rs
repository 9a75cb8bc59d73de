//! What is in the memory of the process stays there: secrets, and what users were sent.

use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};

/// No core file is written, whatever limit was inherited. Costs nothing: whoever needs one can still ask for it, by prlimit(1).
pub(crate) fn no_core_files() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Core);
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum });
}

/// Nor by prlimit(1), nor is one handed to a program that takes cores by a pipe, which no limit binds, and no process of the same
/// user reads the memory or traces us. In return `/proc/PID` belongs to root, so that only root looks into descriptors and maps: a process
/// that holds no secrets does without.
pub(crate) fn keep_private() {
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}
