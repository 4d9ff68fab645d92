//! Whom to dial again, and when: jittered exponential back-off, decided without a clock or I/O.
//!
//! ```text
//!            add                   confirmed
//! address ---------> due --dial--> connected --lost--+
//!                     ^   \ failed                   |
//!                     +----+-------------------------+
//! ```
//! Bootstrap addresses are tried for ever. Peers that were lost are tried while the node has few connections, and are
//! given up in the end: whoever matters to a large mesh is found again through Kademlia.

use std::{collections::HashMap, time::Duration};

use libp2p::{Multiaddr, PeerId};
use tokio::time::Instant;

use crate::error::Error;

/// The first wait: short enough to heal at once when a link returns.
const FIRST: Duration = Duration::from_millis(500);
/// So many tries are made at most [`FIRST`] times two to the power of [`BRISK_DOUBLINGS`] apart: some minutes, in which a
/// link that was cut comes back more often than not, and is to be used at once.
const BRISK: u32 = 100;
const BRISK_DOUBLINGS: u32 = 3;
/// The longest wait in the LAN profile.
const CAP_PRIVATE: Duration = Duration::from_secs(30);
/// The longest wait.
const CAP: Duration = Duration::from_secs(60);
/// Bootstrap addresses that are kept: an operator names a handful.
const MAX_ADDRESSES: usize = 64;
/// Lost peers that are kept.
const MAX_PEERS: usize = 256;
/// A lost peer is given up after this many failures, which take about half an hour.
const PEER_ATTEMPTS: u32 = 132;
/// With this many peers connected, lost ones are let go: a gossip mesh holds 8.
const ENOUGH: usize = 8;

/// What to dial.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Target {
    /// A bootstrap address, with or without the peer's id.
    Address(Multiaddr),
    /// A peer that was connected once.
    Peer(PeerId),
}

#[derive(Debug)]
struct State {
    failures: u32,
    /// `None` while it is being dialled or is connected.
    due: Option<Instant>,
    /// Who answered there.
    peer: Option<PeerId>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Redial {
    targets: HashMap<Target, State>,
    cap: Duration,
}

impl Redial {
    pub(crate) fn new(private: bool) -> Self {
        Self { targets: HashMap::new(), cap: if private { CAP_PRIVATE } else { CAP } }
    }

    /// Keeps a bootstrap address, to be dialled from `due` on; `None` if the caller dials it now.
    pub(crate) fn add(&mut self, address: Multiaddr, due: Option<Instant>) -> Result<(), Error> {
        let target = Target::Address(address);
        if self.targets.contains_key(&target) {
            return Ok(());
        }
        if self.targets.keys().filter(|target| matches!(target, Target::Address(_))).count() >= MAX_ADDRESSES {
            return Err(Error::Limit { what: "bootstrap addresses" });
        }
        self.targets.insert(target, State { failures: 0, due, peer: None });
        Ok(())
    }

    /// A peer of an earlier run, to be dialled from `due` on unless enough others are connected by then.
    pub(crate) fn remembered(&mut self, peer: PeerId, due: Instant) {
        if self.targets.len() < MAX_PEERS + MAX_ADDRESSES {
            self.targets.entry(Target::Peer(peer)).or_insert(State { failures: 0, due: Some(due), peer: Some(peer) });
        }
    }

    /// Drops a target for good.
    pub(crate) fn forget(&mut self, target: &Target) {
        self.targets.remove(target);
    }

    /// A peer that was let go isn't dialled again.
    pub(crate) fn forget_peer(&mut self, peer: PeerId) {
        self.targets.remove(&Target::Peer(peer));
    }

    /// A dial of `target` failed; `jitter` in 0..1 spreads the next ones.
    pub(crate) fn failed(&mut self, target: &Target, now: Instant, jitter: f64) {
        let wait = |failures: u32, cap: Duration| {
            let doublings = if failures < BRISK { failures.min(BRISK_DOUBLINGS) } else { failures - BRISK + BRISK_DOUBLINGS };
            let full = FIRST.saturating_mul(1 << doublings.min(10)).min(cap);
            full.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0)
        };
        if let Some(state) = self.targets.get_mut(target) {
            state.due = Some(now + wait(state.failures, self.cap));
            state.failures = state.failures.saturating_add(1);
            if matches!(target, Target::Peer(_)) && state.failures > PEER_ATTEMPTS {
                self.targets.remove(target);
            }
        }
    }

    /// `peer` answered at `target`; nothing is due for it until it is lost.
    pub(crate) fn answered(&mut self, target: &Target, peer: PeerId) {
        if let Some(state) = self.targets.get_mut(target) {
            state.due = None;
            state.peer = Some(peer);
        }
    }

    /// `peer` is connected and of this mesh: its back-off starts anew.
    pub(crate) fn confirmed(&mut self, peer: PeerId) {
        self.targets.remove(&Target::Peer(peer));
        for state in self.targets.values_mut().filter(|state| state.peer == Some(peer)) {
            state.failures = 0;
            state.due = None;
        }
    }

    /// The last connection with `peer` is gone.
    pub(crate) fn lost(&mut self, peer: PeerId, confirmed: bool, now: Instant, jitter: f64) {
        let addresses: Vec<Target> =
            self.targets.iter().filter(|(_, state)| state.peer == Some(peer)).map(|(target, _)| target.clone()).collect();
        for target in &addresses {
            self.failed(target, now, jitter);
        }
        let target = Target::Peer(peer);
        if addresses.is_empty() && confirmed && (self.targets.len() < MAX_PEERS + MAX_ADDRESSES || self.targets.contains_key(&target)) {
            self.targets.entry(target.clone()).or_insert(State { failures: 0, due: None, peer: Some(peer) });
            self.failed(&target, now, jitter);
        }
    }

    /// Whether `peer` answers at a bootstrap address.
    pub(crate) fn is_bootstrap(&self, peer: PeerId) -> bool {
        self.targets.iter().any(|(target, state)| matches!(target, Target::Address(_)) && state.peer == Some(peer))
    }

    /// What is due at `now`; each is given out once, until it fails or is lost.
    pub(crate) fn due(&mut self, now: Instant, connected: usize) -> Vec<Target> {
        if connected >= ENOUGH {
            self.targets.retain(|target, state| matches!(target, Target::Address(_)) || state.due.is_none_or(|due| due > now));
        }
        let due = self.targets.iter_mut().filter(|(_, state)| state.due.is_some_and(|due| due <= now));
        due.map(|(target, state)| {
            state.due = None;
            target.clone()
        })
        .collect()
    }

    /// When something is due next.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.targets.values().filter_map(|state| state.due).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address() -> Multiaddr {
        "/ip4/127.0.0.1/tcp/1".parse().expect("an address")
    }

    #[test]
    fn bootstrap_addresses_are_tried_for_ever_with_growing_waits() {
        let (mut redial, mut now) = (Redial::new(true), Instant::now());
        redial.add(address(), Some(now)).expect("room");
        let mut waits = Vec::new();
        for _ in 0..200 {
            let due = redial.due(now, 0);
            assert_eq!(due, [Target::Address(address())]);
            assert!(redial.due(now, 0).is_empty(), "it is being dialled");
            redial.failed(&due[0], now, 1.0);
            let next = redial.next().expect("due again");
            waits.push(next - now);
            now = next;
        }
        assert_eq!(waits[..3], [FIRST, FIRST * 2, FIRST * 4]);
        assert_eq!((waits[99], waits[199]), (FIRST * 8, CAP_PRIVATE));
    }

    #[test]
    fn a_lost_bootstrap_peer_is_redialled_by_its_address_alone() {
        let (mut redial, now, peer) = (Redial::new(false), Instant::now(), PeerId::random());
        redial.add(address(), None).expect("room");
        redial.answered(&Target::Address(address()), peer);
        redial.confirmed(peer);
        assert!(redial.is_bootstrap(peer) && redial.next().is_none());
        redial.lost(peer, true, now, 0.0);
        assert_eq!(redial.due(now + FIRST, 100), [Target::Address(address())]);
    }

    #[test]
    fn lost_peers_are_given_up_in_the_end_and_at_once_where_there_are_enough() {
        let (mut redial, mut now, peer) = (Redial::new(false), Instant::now(), PeerId::random());
        redial.lost(peer, false, now, 0.5);
        assert!(redial.next().is_none(), "it never was a member");
        redial.lost(peer, true, now, 0.5);
        let mut attempts = 0;
        while let Some(next) = redial.next() {
            now = next;
            for target in redial.due(now, 0) {
                attempts += 1;
                redial.failed(&target, now, 0.5);
            }
        }
        assert_eq!(attempts, PEER_ATTEMPTS);
        redial.lost(peer, true, now, 0.5);
        assert!(redial.due(now + CAP, ENOUGH).is_empty() && redial.next().is_none());
    }

    #[test]
    fn the_list_is_bounded() {
        let (mut redial, now) = (Redial::new(false), Instant::now());
        for port in 1..=64 {
            redial.add(format!("/ip4/127.0.0.1/tcp/{port}").parse().expect("an address"), Some(now)).expect("room");
        }
        assert!(redial.add("/ip4/127.0.0.1/tcp/65".parse().expect("an address"), Some(now)).is_err());
        for _ in 0..1000 {
            redial.lost(PeerId::random(), true, now, 0.5);
        }
        assert!(redial.targets.len() <= MAX_PEERS + MAX_ADDRESSES);
    }
}
