//! A network of its own for a server: a namespace behind a pair of virtual interfaces that can be taken down.
//!
//! A link that is down swallows packets: nothing is reset, nothing is closed. Needs root and `ip`; where that is not to be
//! had, the test says so aloud and ends.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// A namespace with one link to us. Dropping it removes both.
pub struct Namespace {
    name: String,
    /// The interface inside.
    inner: String,
    /// The address inside.
    pub address: String,
}

impl Namespace {
    /// Makes one; `None`, said on standard error, where this machine does not let us.
    pub fn new(test: &str) -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let (pid, count) = (std::process::id(), COUNT.fetch_add(1, Ordering::SeqCst));
        let name = format!("sidestream-{pid}-{count}");
        let (outer, inner) = (format!("sso{pid}x{count}"), format!("ssi{pid}x{count}"));
        // A network of four addresses for each.
        let net = |last: u32| format!("10.{}.{}.{}", 100 + pid / 256 % 100, pid % 256, 4 * (count % 64) + last);
        let (ours, address) = (net(1), net(2));
        let namespace = Self { name, inner, address };
        let (name, inner) = (&namespace.name, &namespace.inner);
        let made = ip(&["netns", "add", name])
            && ip(&["link", "add", &outer, "type", "veth", "peer", "name", inner, "netns", name])
            && ip(&["addr", "add", &format!("{ours}/30"), "dev", &outer])
            && ip(&["link", "set", &outer, "up"])
            && ip(&["-n", name, "addr", "add", &format!("{}/30", namespace.address), "dev", inner])
            && ip(&["-n", name, "link", "set", "lo", "up"])
            && ip(&["-n", name, "link", "set", inner, "up"]);
        if !made {
            super::skipped(test, "needs root and `ip netns`");
        }
        made.then_some(namespace)
    }

    /// Words that run a command inside.
    pub fn prefix(&self) -> Vec<String> {
        ["ip", "netns", "exec", &self.name].map(str::to_owned).into()
    }

    /// Takes the link down: what is sent either way is lost without a sign.
    pub fn link_down(&self) {
        assert!(ip(&["-n", &self.name, "link", "set", &self.inner, "down"]), "the link is ours");
    }

    /// Takes the link up again.
    pub fn link_up(&self) {
        assert!(ip(&["-n", &self.name, "link", "set", &self.inner, "up"]), "the link is ours");
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // With the namespace goes the inner interface, and with that the outer one.
        ip(&["netns", "del", &self.name]);
    }
}

/// Runs `ip`, silent where it fails.
fn ip(args: &[&str]) -> bool {
    Command::new("ip").args(args).output().is_ok_and(|output| output.status.success())
}
