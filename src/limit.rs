//! Quotas: streams in all, per user and per address, and how fast they may be opened.
//!
//! Asked once per stream, never per event; the maps are shared by all shards behind one lock each, bounded by what is open
//! and swept of idle keys. A refusal names the limit; what the client is told is `http::reject`'s business.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use governor::clock::DefaultClock;
use governor::state::keyed::HashMapStateStore;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

use crate::config::Limits;
use crate::live::Live;
use crate::telemetry::metrics::Refused;

/// Openings between two sweeps of the rate limiters' idle keys.
const SWEEP_EVERY: usize = 4096;

type Keyed<K> = RateLimiter<K, HashMapStateStore<K>, DefaultClock>;

/// All quotas of the process.
#[derive(Debug)]
pub struct Limiter {
    rules: Live<Rules>,
    /// Memory is short: everybody waits.
    held_back: AtomicBool,
    open: AtomicUsize,
    asked: AtomicUsize,
    users: Mutex<HashMap<String, u32>>,
    addresses: Mutex<HashMap<IpAddr, u32>>,
}

/// What is allowed, and what the rates remember.
#[derive(Debug)]
struct Rules {
    connections: usize,
    per_user: u32,
    per_address: u32,
    rate: RateLimiter<NotKeyed, InMemoryState, DefaultClock>,
    user_rate: Keyed<String>,
    address_rate: Keyed<IpAddr>,
}

impl Rules {
    fn new(limits: &Limits) -> Self {
        Self {
            connections: limits.connections,
            per_user: limits.connections_per_user,
            per_address: limits.connections_per_address,
            rate: RateLimiter::direct(per_second(limits.connects_per_second)),
            user_rate: RateLimiter::hashmap(per_second(limits.connects_per_second_per_user)),
            address_rate: RateLimiter::hashmap(per_second(limits.connects_per_second_per_address)),
        }
    }

    /// Pays for one opening.
    fn spend(&self, user: Option<&str>, address: Option<IpAddr>) -> Result<(), Refused> {
        let user_ok = user.is_none_or(|user| self.user_rate.check_key(&user.to_owned()).is_ok());
        let address_ok = address.is_none_or(|address| self.address_rate.check_key(&address).is_ok());
        if user_ok && address_ok && self.rate.check().is_ok() { Ok(()) } else { Err(Refused::Rate) }
    }

    fn sweep(&self) {
        self.user_rate.retain_recent();
        self.user_rate.shrink_to_fit();
        self.address_rate.retain_recent();
        self.address_rate.shrink_to_fit();
    }
}

impl Limiter {
    /// Nothing used yet.
    pub fn new(limits: &Limits) -> Arc<Self> {
        Arc::new(Self {
            rules: Live::new(Rules::new(limits)),
            held_back: AtomicBool::new(false),
            open: AtomicUsize::new(0),
            asked: AtomicUsize::new(0),
            users: Mutex::default(),
            addresses: Mutex::default(),
        })
    }

    /// Other limits from now on, with fresh bursts. What is open stays, also where there is now too much of it.
    pub fn limit(&self, limits: &Limits) {
        self.rules.set(Rules::new(limits));
    }

    /// Takes a place for one stream, or says which limit is reached. The place is given back when the permit is dropped.
    /// `address` is absent where the client's address is not known (a unix socket without forwarded address).
    pub fn admit(self: &Arc<Self>, user: Option<&str>, address: Option<IpAddr>) -> Result<Permit, Refused> {
        if self.held_back.load(Ordering::Relaxed) {
            return Err(Refused::Memory);
        }
        let (rules, address) = (self.rules.get(), address.map(limit_key));
        let mut permit = Permit { limiter: self.clone(), user: None, address: None };
        if self.open.fetch_add(1, Ordering::Relaxed) >= rules.connections {
            return Err(Refused::Connections);
        }
        if let Some(user) = user {
            take(&self.users, user.to_owned(), rules.per_user).map_err(|()| Refused::User)?;
            permit.user = Some(user.into());
        }
        if let Some(address) = address {
            take(&self.addresses, address, rules.per_address).map_err(|()| Refused::Address)?;
            permit.address = Some(address);
        }
        if self.asked.fetch_add(1, Ordering::Relaxed) % SWEEP_EVERY == SWEEP_EVERY - 1 {
            self.sweep();
        }
        rules.spend(user, address)?;
        Ok(permit)
    }

    /// Lets new streams wait, or lets them in again; those that are open stay.
    pub fn hold_back(&self, held_back: bool) {
        self.held_back.store(held_back, Ordering::Relaxed);
    }

    /// Whether new streams wait because memory is short.
    pub fn is_held_back(&self) -> bool {
        self.held_back.load(Ordering::Relaxed)
    }

    /// Streams open now.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Users with a stream.
    pub fn users(&self) -> usize {
        self.users.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Forgets whoever could open streams at full rate again, and gives back what the maps held for them. Bounded by the
    /// keys of 4096 openings and of those that a second or two has brought. Called often enough by whoever
    /// counts time; a storm sweeps for itself.
    pub fn sweep(&self) {
        self.rules.get().sweep();
        shrink(&self.users);
        shrink(&self.addresses);
    }
}

/// A place taken. Dropping it gives the place back.
#[derive(Debug)]
pub struct Permit {
    limiter: Arc<Limiter>,
    user: Option<Box<str>>,
    address: Option<IpAddr>,
}

impl Permit {
    /// Whose place it is.
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.limiter.open.fetch_sub(1, Ordering::Relaxed);
        if let Some(user) = &self.user {
            give_back(&self.limiter.users, &**user);
        }
        if let Some(address) = &self.address {
            give_back(&self.limiter.addresses, address);
        }
    }
}

fn take<K: Eq + Hash>(counts: &Mutex<HashMap<K, u32>>, key: K, max: u32) -> Result<(), ()> {
    let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
    let count = counts.entry(key).or_default();
    if *count >= max {
        return Err(());
    }
    *count += 1;
    Ok(())
}

fn give_back<K: Eq + Hash + Borrow<Q>, Q: Eq + Hash + ?Sized>(counts: &Mutex<HashMap<K, u32>>, key: &Q) {
    let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

/// What was open once must not be paid for ever after.
fn shrink<K: Eq + Hash>(counts: &Mutex<HashMap<K, u32>>) {
    let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
    if counts.capacity() > 4 * counts.len() {
        let room = 2 * counts.len();
        counts.shrink_to(room);
    }
}

/// So many a second, in bursts of twice that.
fn per_second(rate: u32) -> Quota {
    let rate = NonZeroU32::new(rate).unwrap_or(NonZeroU32::MIN);
    Quota::per_second(rate).allow_burst(rate.saturating_mul(NonZeroU32::MIN.saturating_add(1)))
}

/// One key per IPv4 address and per IPv6 /64: whoever has one address of a /64 has all of them.
fn limit_key(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits {
            connections: 3,
            connections_per_user: 2,
            connections_per_address: 2,
            connects_per_second: 1000,
            connects_per_second_per_user: 1000,
            connects_per_second_per_address: 1000,
            queue_bytes: 1,
            queue_events: 1,
            write_timeout: std::time::Duration::from_secs(1),
            unsent_buffer: 1,
            event_bytes: 1,
            replay_events: 1,
            replays: 1,
            memory: None,
        }
    }

    #[test]
    fn each_limit_refuses_by_name_and_places_come_back() {
        let limiter = Limiter::new(&limits());
        let ip = |last| Some(IpAddr::from([10, 0, 0, last]));
        let first = limiter.admit(Some("a"), ip(1)).expect("a place");
        let second = limiter.admit(Some("a"), ip(2)).expect("a place");
        assert_eq!(limiter.admit(Some("a"), ip(3)).err(), Some(Refused::User));
        let third = limiter.admit(Some("b"), ip(1)).expect("a place");
        assert_eq!(limiter.admit(Some("c"), ip(9)).err(), Some(Refused::Connections));
        drop(second);
        assert_eq!(limiter.admit(Some("c"), ip(1)).err(), Some(Refused::Address));
        drop((first, third));
        assert_eq!(limiter.open(), 0);
        assert!(limiter.users.lock().expect("not poisoned").is_empty());
        assert!(limiter.addresses.lock().expect("not poisoned").is_empty());
    }

    #[test]
    fn openings_are_paced() {
        let mut paced = limits();
        paced.connects_per_second_per_user = 2;
        let limiter = Limiter::new(&paced);
        let mut refused = 0;
        for _ in 0..20 {
            refused += usize::from(limiter.admit(Some("a"), None).err() == Some(Refused::Rate));
        }
        assert!(refused >= 15, "a burst of four and then two a second, but only {refused} of 20 were refused");
    }

    #[test]
    fn memory_holds_everybody_back_and_takes_no_place() {
        let limiter = Limiter::new(&limits());
        limiter.hold_back(true);
        assert_eq!(limiter.admit(Some("a"), None).err(), Some(Refused::Memory));
        assert_eq!(limiter.open(), 0);
        limiter.hold_back(false);
        assert!(limiter.admit(Some("a"), None).is_ok());
    }

    #[test]
    fn maps_are_bounded_while_keys_storm_and_shrink_when_they_have_gone() {
        const KEYS: usize = 100_000;
        let mut wide = limits();
        (wide.connections, wide.connects_per_second) = (KEYS, u32::MAX / 2);
        let limiter = Limiter::new(&wide);
        let key = |n: usize| (format!("user{n}"), IpAddr::V6(Ipv6Addr::from_bits((n as u128) << 64)));
        // Come and gone: a place is given back at once, a rate is remembered until it is full again.
        let mut most = 0;
        for n in 0..KEYS {
            let (user, address) = key(n);
            drop(limiter.admit(Some(&user), Some(address)));
            most = most.max(remembered(&limiter));
        }
        assert!(most < KEYS / 2, "{most} keys at once: nobody swept");
        // All there at once, then all gone.
        let held: Vec<_> = (0..KEYS / 10)
            .map(|n| {
                let (user, address) = key(n);
                limiter.admit(Some(&user), Some(address)).expect("a place")
            })
            .collect();
        assert_eq!(limiter.users.lock().expect("not poisoned").len(), held.len());
        drop(held);
        // A rate of a thousand a second is full again after a thousandth.
        std::thread::sleep(std::time::Duration::from_millis(5));
        limiter.sweep();
        assert_eq!(remembered(&limiter), 0);
        assert!(limiter.users.lock().expect("not poisoned").capacity() < 64);
        assert!(limiter.addresses.lock().expect("not poisoned").capacity() < 64);
    }

    /// The keys whose rates are remembered, users or addresses, whichever are more.
    fn remembered(limiter: &Limiter) -> usize {
        let rules = limiter.rules.get();
        rules.user_rate.len().max(rules.address_rate.len())
    }

    #[test]
    fn other_limits_hold_from_the_next_opening_on() {
        let limiter = Limiter::new(&limits());
        let held: Vec<_> = (0..2).map(|_| limiter.admit(Some("a"), None).expect("a place")).collect();
        let mut narrow = limits();
        narrow.connections_per_user = 1;
        limiter.limit(&narrow);
        assert_eq!(limiter.open(), 2, "what is open stays");
        drop(held);
        let _one = limiter.admit(Some("a"), None).expect("a place");
        assert_eq!(limiter.admit(Some("a"), None).err(), Some(Refused::User));
        limiter.limit(&limits());
        assert!(limiter.admit(Some("a"), None).is_ok());
    }

    #[test]
    fn an_ipv6_net_is_one_client() {
        let key = |text: &str| limit_key(text.parse().expect("an address"));
        assert_eq!(key("2001:db8::1"), key("2001:db8::ffff:1"));
        assert_ne!(key("2001:db8:0:1::1"), key("2001:db8:0:2::1"));
        assert_eq!(key("::ffff:10.0.0.1"), key("10.0.0.1"));
    }
}
