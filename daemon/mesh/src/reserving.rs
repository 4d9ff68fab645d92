//! On which relays to hold reservations, decided without a clock or I/O.
//!
//! ```text
//!           offers()                 wanted()               accepted()
//! a peer -----------> candidate ---------------> asked ---------------> held
//!                         ^    \                    |  lost(), refused    |
//!                         +-----+--- back-off <-----+---------------------+
//! ```
//! A node that nobody can dial holds reservations on two relays, so that the loss of one doesn't cut it off.

use std::{collections::HashMap, time::Duration};

use libp2p::{PeerId, core::transport::ListenerId};
use tokio::time::Instant;

/// Relays that a node reserves on.
const WANTED: usize = 2;
/// Relays that are remembered.
const MAX_CANDIDATES: usize = 32;
/// The first wait after a relay refused or was lost, and the longest.
const FIRST: Duration = Duration::from_secs(1);
const CAP: Duration = Duration::from_secs(60);

#[derive(Debug)]
enum State {
    Candidate { due: Option<Instant> },
    Asked(ListenerId),
    Held { listener: ListenerId, since: Instant },
}

#[derive(Debug)]
struct Relay {
    state: State,
    failures: u32,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Reserving {
    relays: HashMap<PeerId, Relay>,
    /// This node can be dialled, and needs no relay.
    public: bool,
}

impl Reserving {
    /// `peer` is connected and offers to relay.
    pub(crate) fn offers(&mut self, peer: PeerId) {
        if self.relays.len() < MAX_CANDIDATES {
            self.relays.entry(peer).or_insert(Relay { state: State::Candidate { due: None }, failures: 0 });
        }
    }

    /// `peer` is connected no more; its reservation, if there was one, ends by itself.
    pub(crate) fn gone(&mut self, peer: &PeerId) {
        if let Some(Relay { state: State::Candidate { .. }, .. }) = self.relays.get(peer) {
            self.relays.remove(peer);
        }
    }

    /// Whether this node can be dialled directly; returns the listeners that it needs no more.
    pub(crate) fn set_public(&mut self, public: bool) -> Vec<ListenerId> {
        self.public = public;
        if !public {
            return Vec::new();
        }
        let listeners = self.relays.values().filter_map(|relay| match relay.state {
            State::Asked(listener) | State::Held { listener, .. } => Some(listener),
            State::Candidate { .. } => None,
        });
        let listeners = listeners.collect();
        for relay in self.relays.values_mut() {
            relay.state = State::Candidate { due: None };
        }
        listeners
    }

    /// The relays to ask now.
    pub(crate) fn wanted(&self, now: Instant) -> Vec<PeerId> {
        if self.public {
            return Vec::new();
        }
        let busy = self.relays.values().filter(|relay| !matches!(relay.state, State::Candidate { .. })).count();
        let mut ready: Vec<(&PeerId, &Relay)> = self
            .relays
            .iter()
            .filter(|(_, relay)| matches!(relay.state, State::Candidate { due } if due.is_none_or(|due| due <= now)))
            .collect();
        ready.sort_by_key(|(_, relay)| relay.failures);
        ready.into_iter().take(WANTED.saturating_sub(busy)).map(|(peer, _)| *peer).collect()
    }

    /// When [`Self::wanted`] may have more to say.
    pub(crate) fn next(&self) -> Option<Instant> {
        let due = self.relays.values().filter_map(|relay| match relay.state {
            State::Candidate { due } => due,
            State::Asked(_) | State::Held { .. } => None,
        });
        if self.public { None } else { due.min() }
    }

    /// `peer` was asked through `listener`.
    pub(crate) fn asked(&mut self, peer: PeerId, listener: ListenerId) {
        if let Some(relay) = self.relays.get_mut(&peer) {
            relay.state = State::Asked(listener);
        }
    }

    /// `peer` has accepted the reservation, or prolonged it.
    pub(crate) fn accepted(&mut self, peer: &PeerId, now: Instant) {
        if let Some(relay) = self.relays.get_mut(peer)
            && let State::Asked(listener) = relay.state
        {
            *relay = Relay { state: State::Held { listener, since: now }, failures: 0 };
        }
    }

    /// `peer` could not even be asked.
    pub(crate) fn refused(&mut self, peer: &PeerId, now: Instant) {
        if let Some(relay) = self.relays.get_mut(peer) {
            let wait = FIRST.saturating_mul(1 << relay.failures.min(6)).min(CAP);
            *relay = Relay { state: State::Candidate { due: Some(now + wait) }, failures: relay.failures.saturating_add(1) };
        }
    }

    /// A listener has ended: if it stood for a reservation, that is lost. Returns the relay.
    pub(crate) fn lost(&mut self, listener: ListenerId, now: Instant) -> Option<PeerId> {
        let (peer, _) = self
            .relays
            .iter()
            .find(|(_, relay)| matches!(relay.state, State::Asked(known) | State::Held { listener: known, .. } if known == listener))?;
        let peer = *peer;
        self.refused(&peer, now);
        Some(peer)
    }

    /// The relays that hold a reservation, and since when.
    pub(crate) fn held(&self) -> Vec<(PeerId, Instant)> {
        let held = self.relays.iter().filter_map(|(peer, relay)| match relay.state {
            State::Held { since, .. } => Some((*peer, since)),
            State::Candidate { .. } | State::Asked(_) => None,
        });
        held.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_are_held_and_replaced_when_lost() {
        let (mut reserving, now) = (Reserving::default(), Instant::now());
        let relays: Vec<PeerId> = (0..4).map(|_| PeerId::random()).collect();
        for relay in &relays {
            reserving.offers(*relay);
        }
        let first = reserving.wanted(now);
        assert_eq!(first.len(), WANTED);
        let listeners: Vec<ListenerId> = first.iter().map(|_| ListenerId::next()).collect();
        for (relay, listener) in first.iter().zip(&listeners) {
            reserving.asked(*relay, *listener);
            reserving.accepted(relay, now);
        }
        assert!(reserving.wanted(now).is_empty());
        assert_eq!(reserving.held().len(), WANTED);
        assert_eq!(reserving.lost(listeners[0], now), Some(first[0]));
        // Another one is tried before the one that was lost.
        let next = reserving.wanted(now);
        assert!(next.len() == 1 && !first.contains(&next[0]));
        assert_eq!(reserving.lost(ListenerId::next(), now), None);
        reserving.refused(&next[0], now);
        assert!(!reserving.wanted(now + FIRST).is_empty());
    }

    #[test]
    fn a_single_relay_is_asked_again_with_growing_waits() {
        let (mut reserving, mut now, relay) = (Reserving::default(), Instant::now(), PeerId::random());
        reserving.offers(relay);
        let mut waits = Vec::new();
        for _ in 0..10 {
            assert_eq!(reserving.wanted(now), [relay]);
            reserving.refused(&relay, now);
            assert!(reserving.wanted(now).is_empty());
            let next = reserving.next().expect("due again");
            waits.push(next - now);
            now = next;
        }
        assert_eq!((waits[0], waits[1], waits[9]), (FIRST, FIRST * 2, CAP));
    }

    #[test]
    fn who_can_be_dialled_needs_none() {
        let (mut reserving, now, relay) = (Reserving::default(), Instant::now(), PeerId::random());
        reserving.offers(relay);
        let listener = ListenerId::next();
        reserving.asked(relay, listener);
        assert_eq!(reserving.set_public(true), [listener]);
        assert!(reserving.wanted(now).is_empty() && reserving.next().is_none());
        reserving.set_public(false);
        assert_eq!(reserving.wanted(now), [relay]);
        reserving.gone(&relay);
        assert!(reserving.wanted(now).is_empty());
    }
}
