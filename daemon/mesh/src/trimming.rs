//! Which connections to let go when there are more than a node needs, decided without a clock or I/O.
//!
//! Look-ups meet many nodes; kept, their connections would grow with the mesh, and so would its cost: a connection is most
//! of what a peer takes. Some forty keep look-ups and gossip going in a mesh of any size.

use std::time::Duration;

use libp2p::PeerId;
use tokio::time::Instant;

/// Peers that are kept where nothing else is said.
pub(crate) const PEERS: usize = 40;
/// A connection that is younger may be in the middle of what it was made for.
const GRACE: Duration = Duration::from_secs(5);

/// A connected peer, as far as it matters here.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Candidate {
    pub(crate) peer: PeerId,
    pub(crate) since: Instant,
    /// It is an entry node, carries requests, relays or gossips for this node.
    pub(crate) needed: bool,
}

/// Those to let go at `now`, for about `target` to stay. The newest go first: who was there long will be there longer.
pub(crate) fn excess(mut peers: Vec<Candidate>, target: usize, now: Instant) -> Vec<PeerId> {
    // Both ends decide by themselves, so that there is room between.
    if peers.len() <= target + target / 2 {
        return Vec::new();
    }
    let over = peers.len() - target;
    peers.retain(|candidate| !candidate.needed && now.duration_since(candidate.since) >= GRACE);
    peers.sort_by_key(|candidate| std::cmp::Reverse(candidate.since));
    peers.into_iter().take(over).map(|candidate| candidate.peer).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_or_young_stays() {
        let now = Instant::now() + 10 * GRACE;
        let peer = |age: u32, needed| Candidate { peer: PeerId::random(), since: now - Duration::from_secs(age.into()), needed };
        let few: Vec<_> = (0..60).map(|_| peer(100, false)).collect();
        assert!(excess(few, PEERS, now).is_empty());
        let mut many: Vec<_> = (0..60).map(|age| peer(30 + age, false)).collect();
        let (needed, young) = (peer(90, true), peer(1, false));
        many.extend([needed, young]);
        many.extend((0..30).map(|_| peer(100, true)));
        let gone = excess(many.clone(), PEERS, now);
        assert_eq!(gone.len(), many.len() - PEERS);
        assert!(!gone.contains(&needed.peer) && !gone.contains(&young.peer));
        assert!(gone.contains(&many[0].peer) && !gone.contains(&many[59].peer), "the newest go first");
    }
}
