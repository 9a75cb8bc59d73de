//! A network of its own for a server: a namespace behind a pair of virtual interfaces that can be taken down.
//!
//! A link that is down swallows packets: nothing is reset, nothing is closed. Needs root and `ip`; where that is not to be
//! had, the test says so aloud and ends.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::net::TcpStream;

/// A namespace with one link to us. Dropping it removes both.
pub struct Namespace {
    name: String,
    /// The interface inside.
    inner: String,
    /// The address inside.
    pub address: String,
    /// Our address on the link.
    pub ours: String,
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
        let namespace = Self { name, inner, address, ours };
        let (name, inner) = (&namespace.name, &namespace.inner);
        let made = ip(&["netns", "add", name])
            && ip(&["link", "add", &outer, "type", "veth", "peer", "name", inner, "netns", name])
            && ip(&["addr", "add", &format!("{}/30", namespace.ours), "dev", &outer])
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

    /// Connects from inside to `host:port` on our side, so many times.
    pub fn connect(&self, address: &str, count: usize) -> Vec<TcpStream> {
        let file = File::open(Path::new("/var/run/netns").join(&self.name)).expect("the namespace is ours");
        let address = address.to_owned();
        // A namespace is a thread's: this one ends in it, its sockets stay there.
        let inside = std::thread::spawn(move || {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).expect("root may enter");
            let connect = |_| std::net::TcpStream::connect(&address).expect("the server accepts");
            (0..count).map(connect).collect::<Vec<_>>()
        });
        let streams = inside.join().expect("connected").into_iter();
        let adopt = |stream: std::net::TcpStream| {
            stream.set_nonblocking(true).expect("a fresh socket");
            TcpStream::from_std(stream).expect("a runtime")
        };
        streams.map(adopt).collect()
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
