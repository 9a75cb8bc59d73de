//! Exit codes, after sysexits(3): scripts and service managers can tell a typing error from an outage.

use std::process::ExitCode;

use crate::config::error::{FaultKind, Report};

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// Done, and the answer is no: `explain` of a request that is refused, `doctor` with a finding.
    Negative = 1,
    /// The command line is wrong (EX_USAGE).
    Usage = 64,
    /// A named file is missing (EX_NOINPUT).
    NoInput = 66,
    /// NATS, or the server asked, is not reachable (EX_UNAVAILABLE).
    Unavailable = 69,
    /// A fault of ours (EX_SOFTWARE).
    Internal = 70,
    /// The system refused: a bind, a limit (EX_OSERR).
    Os = 71,
    /// Permission denied (EX_NOPERM).
    NoPermission = 77,
    /// The configuration is wrong (EX_CONFIG).
    Config = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl From<&Report> for Exit {
    fn from(report: &Report) -> Self {
        match report.kind() {
            FaultKind::Invalid => Self::Config,
            FaultKind::Missing => Self::NoInput,
            FaultKind::Denied => Self::NoPermission,
        }
    }
}
