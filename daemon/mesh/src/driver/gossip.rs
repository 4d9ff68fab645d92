//! Gossip: announcements are validated before they are forwarded or believed.

use std::collections::HashMap;

use libp2p::gossipsub::{Event, Message, MessageAcceptance, PublishError};
use protocol::{
    NodeId, Timestamp,
    wire::{self, Announcement},
};
use tokio::time::Instant;

use super::Driver;
use crate::{
    bans::Offence,
    identity,
    limits::{GOSSIP_WINDOW, MAX_GOSSIP_PER_PEER, MAX_GOSSIP_PER_SOURCE, Met},
};

/// The gossip layer's opinion below which a peer has sent several invalid messages; nothing else lowers it.
const WORST_SCORE: f64 = -15.0;
/// Sources whose rates are kept.
const MAX_SOURCES: usize = 4_096;

/// How much each source has said of late, and how much each peer has brought.
#[derive(Debug, Default)]
pub(super) struct Rates {
    sources: HashMap<NodeId, Rate>,
    /// In this window; peers are few.
    brought: HashMap<NodeId, u32>,
    window: Option<Instant>,
}

#[derive(Debug)]
struct Rate {
    begun: Instant,
    said: u32,
    /// Gossip's own number of the newest message; it grows, over restarts too.
    newest: u64,
}

impl Rates {
    fn is_replay(&self, source: NodeId, seqno: u64) -> bool {
        self.sources.get(&source).is_some_and(|rate| seqno <= rate.newest)
    }

    /// Whether `peer` may bring one message more at `now`: sources are made up by the thousand, peers aren't.
    fn takes(&mut self, peer: NodeId, now: Instant) -> bool {
        if self.window.is_none_or(|begun| now.duration_since(begun) >= GOSSIP_WINDOW) {
            self.window = Some(now);
            self.brought.clear();
        }
        let brought = self.brought.entry(peer).or_default();
        *brought += 1;
        *brought <= MAX_GOSSIP_PER_PEER
    }

    /// Whether `source` may say one thing more at `now`.
    fn admits(&mut self, source: NodeId, seqno: u64, now: Instant) -> bool {
        if self.sources.len() >= MAX_SOURCES && !self.sources.contains_key(&source) {
            self.sources.retain(|_, rate| now.duration_since(rate.begun) < GOSSIP_WINDOW);
            if self.sources.len() >= MAX_SOURCES {
                return false;
            }
        }
        let rate = self.sources.entry(source).or_insert(Rate { begun: now, said: 0, newest: 0 });
        if now.duration_since(rate.begun) >= GOSSIP_WINDOW {
            (rate.begun, rate.said) = (now, 0);
        }
        rate.newest = rate.newest.max(seqno);
        rate.said += 1;
        rate.said <= MAX_GOSSIP_PER_SOURCE
    }
}

/// What a message is worth.
#[derive(Debug, PartialEq)]
enum Verdict {
    Valid(NodeId, Announcement),
    /// It was good once: nobody is to blame.
    Stale,
    /// Nobody honest sends this.
    Forged(&'static str),
}

impl Driver {
    pub(super) fn on_gossip(&mut self, event: Event) {
        match event {
            Event::Message { propagation_source, message_id, message } => {
                let from = identity::node_of(&propagation_source);
                let seqno = message.sequence_number.unwrap_or_default();
                let takes = from.is_none_or(|from| self.rates.takes(from, Instant::now()));
                let acceptance = match judge(&message, self.shared.node, Timestamp::now()) {
                    Verdict::Valid(..) | Verdict::Stale if !takes => {
                        self.membership.counters().met(Met::Gossip);
                        MessageAcceptance::Ignore
                    }
                    // An old message that somebody sends again says nothing about its source.
                    Verdict::Valid(source, _) if self.rates.is_replay(source, seqno) => MessageAcceptance::Ignore,
                    Verdict::Valid(source, announcement) if self.rates.admits(source, seqno, Instant::now()) => {
                        self.handler.announced(source, announcement);
                        MessageAcceptance::Accept
                    }
                    Verdict::Valid(source, _) => {
                        self.membership.counters().met(Met::Gossip);
                        // Who passes a flood on isn't to blame; whoever makes it is, and only its own hand proves that.
                        if from == Some(source) {
                            self.membership.offend(source, Offence::GossipFlood);
                        }
                        MessageAcceptance::Ignore
                    }
                    Verdict::Stale => MessageAcceptance::Ignore,
                    Verdict::Forged(reason) => {
                        self.membership.counters().met(Met::Gossip);
                        if let Some(node) = from {
                            // Honest nodes validate before they forward.
                            self.membership.offend(node, Offence::ForgedGossip);
                        }
                        tracing::debug!(from = %propagation_source, source = ?message.source, reason, "an announcement is refused");
                        MessageAcceptance::Reject
                    }
                };
                let gossip = &mut self.swarm.behaviour_mut().gossip;
                gossip.report_message_validation_result(&message_id, &propagation_source, acceptance);
            }
            Event::Subscribed { topic, .. } => {
                if topic == self.topic.hash() {
                    self.announcing.subscribed(Instant::now());
                }
            }
            Event::SlowPeer { peer_id, .. } => tracing::debug!(peer = %peer_id, "a peer takes gossip slowly"),
            Event::Unsubscribed { .. } | Event::GossipsubNotSupported { .. } => {}
        }
    }

    /// Messages whose signature is wrong never come here: the gossip layer drops them, and lowers its opinion of who brought
    /// them. Nobody honest does, as it would have dropped them too.
    pub(super) fn judge_gossip(&self) {
        for node in self.shared.peers.nodes() {
            let score = self.swarm.behaviour().gossip.peer_score(&identity::peer_of(node));
            if score.is_some_and(|score| score < WORST_SCORE) {
                self.membership.counters().met(Met::Gossip);
                self.membership.offend(node, Offence::BadlySignedGossip);
            }
        }
    }

    pub(super) fn publish(&mut self, announcement: &Announcement) {
        match self.swarm.behaviour_mut().gossip.publish(self.topic.clone(), wire::encode(announcement)) {
            Ok(_) => {}
            // The next peer that subscribes has it published again.
            Err(PublishError::NoPeersSubscribedToTopic) => {}
            Err(error) => tracing::debug!(%error, "the announcement can't be published"),
        }
    }
}

fn judge(message: &Message, own: NodeId, now: Timestamp) -> Verdict {
    let source = message.source.as_ref().and_then(identity::node_of);
    // What this node said itself, maybe before it lost power, says nothing new to it, in whatever form.
    if source == Some(own) {
        return Verdict::Stale;
    }
    if message.data.len() > wire::MAX_ANNOUNCEMENT {
        return Verdict::Forged("it is too large");
    }
    let Ok(announcement) = wire::decode::<Announcement>(&message.data) else { return Verdict::Forged("it can't be read") };
    // The gossip layer has verified the source's signature.
    match source {
        Some(source) if source == announcement.node && announcement.expires_at > now => Verdict::Valid(source, announcement),
        Some(source) if source == announcement.node => Verdict::Stale,
        _ => Verdict::Forged("its source isn't the node that it names"),
    }
}

#[cfg(test)]
mod tests {
    use libp2p::gossipsub::TopicHash;
    use protocol::{Digest, Key};

    use super::*;

    #[test]
    fn a_source_has_a_rate_of_its_own() {
        let (mut rates, now) = (Rates::default(), Instant::now());
        let (loud, quiet) = (Key::generate().node_id(), Key::generate().node_id());
        for _ in 0..MAX_GOSSIP_PER_SOURCE {
            assert!(rates.admits(loud, 7, now));
        }
        assert!(!rates.admits(loud, 8, now) && rates.admits(quiet, 1, now));
        assert!(rates.admits(loud, 9, now + GOSSIP_WINDOW));
        assert!(rates.is_replay(loud, 9) && !rates.is_replay(loud, 10));
        for _ in 0..2 * MAX_SOURCES {
            rates.admits(Key::generate().node_id(), 1, now);
        }
        assert!(rates.sources.len() <= MAX_SOURCES);
        for _ in 0..MAX_GOSSIP_PER_PEER {
            assert!(rates.takes(loud, now));
        }
        assert!(!rates.takes(loud, now) && rates.takes(quiet, now) && rates.takes(loud, now + GOSSIP_WINDOW));
    }

    #[test]
    fn announcements_are_believed_of_their_own_node_only() {
        let (key, own, now) = (Key::generate(), Key::generate().node_id(), Timestamp::now());
        let expires_at = now + std::time::Duration::from_secs(60);
        let announcement =
            Announcement { node: key.node_id(), sequence: 1, digest: Digest::blake3(b"advert"), expires_at, withdrawn: false };
        let message = |source: &Key, data: Vec<u8>| Message {
            source: Some(identity::peer_of(source.node_id())),
            data,
            sequence_number: Some(1),
            topic: TopicHash::from_raw("topic"),
        };
        let good = message(&key, wire::encode(&announcement));
        assert_eq!(judge(&good, own, now), Verdict::Valid(key.node_id(), announcement.clone()));
        assert_eq!(judge(&good, own, expires_at), Verdict::Stale);
        assert_eq!(judge(&good, key.node_id(), now), Verdict::Stale, "it is no news to its own node");
        let forged = message(&Key::generate(), wire::encode(&announcement));
        assert!(matches!(judge(&forged, own, now), Verdict::Forged(_)));
        assert!(matches!(judge(&message(&key, vec![0xff; 10]), own, now), Verdict::Forged(_)));
        assert!(matches!(judge(&message(&key, vec![0; wire::MAX_ANNOUNCEMENT + 1]), own, now), Verdict::Forged(_)));
    }
}
