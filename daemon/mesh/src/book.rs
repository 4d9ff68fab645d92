//! Where peers said that they can be reached: bounded, the peer that was heard of longest ago forgotten first.

use std::collections::HashMap;

use libp2p::{Multiaddr, PeerId};

use crate::address;

/// Peers that are kept: some hundred bytes each.
const MAX_PEERS: usize = 1024;
/// Addresses of one peer that are kept: each transport on a few interfaces.
const MAX_ADDRESSES: usize = 12;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Book {
    peers: HashMap<PeerId, Entry>,
    heard: u64,
}

#[derive(Debug, Default)]
struct Entry {
    heard: u64,
    addresses: Vec<Multiaddr>,
}

impl Book {
    /// Adds addresses of `peer`, newest knowledge first.
    pub(crate) fn add(&mut self, peer: PeerId, addresses: impl IntoIterator<Item = Multiaddr>) {
        self.heard += 1;
        if !self.peers.contains_key(&peer) && self.peers.len() >= MAX_PEERS {
            let oldest = self.peers.iter().min_by_key(|(_, entry)| entry.heard).map(|(peer, _)| *peer);
            oldest.and_then(|oldest| self.peers.remove(&oldest));
        }
        let entry = self.peers.entry(peer).or_default();
        entry.heard = self.heard;
        for address in addresses.into_iter().take(MAX_ADDRESSES) {
            let (address, named) = address::split_peer(address);
            if named.is_none_or(|named| named == peer) && !entry.addresses.contains(&address) {
                entry.addresses.insert(0, address);
            }
        }
        entry.addresses.truncate(MAX_ADDRESSES);
    }

    /// Those that were heard of, the latest first.
    pub(crate) fn peers(&self) -> Vec<PeerId> {
        let mut peers: Vec<(&PeerId, u64)> = self.peers.iter().map(|(peer, entry)| (peer, entry.heard)).collect();
        peers.sort_by_key(|(_, heard)| std::cmp::Reverse(*heard));
        peers.into_iter().map(|(peer, _)| *peer).collect()
    }

    /// The addresses of `peer`, best transport first.
    pub(crate) fn get(&self, peer: &PeerId) -> Vec<Multiaddr> {
        let mut addresses = self.peers.get(peer).map(|entry| entry.addresses.clone()).unwrap_or_default();
        addresses.sort_by_key(address::transport);
        addresses
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_bounded_and_sorted_and_believes_no_foreign_suffix() {
        let mut book = Book::default();
        let peers: Vec<PeerId> = (0..MAX_PEERS + 10).map(|_| PeerId::random()).collect();
        for peer in &peers {
            book.add(*peer, (1..30).map(|port| format!("/ip4/1.1.1.1/tcp/{port}").parse().expect("an address")));
        }
        assert_eq!(book.peers.len(), MAX_PEERS);
        assert!(book.get(&peers[0]).is_empty() && book.get(&peers[20]).len() == MAX_ADDRESSES);
        let foreign = format!("/ip4/1.1.1.1/tcp/99/p2p/{}", peers[1]).parse().expect("an address");
        book.add(peers[20], ["/ip4/1.1.1.1/tcp/8/tls/ws".parse().expect("an address"), foreign]);
        let addresses = book.get(&peers[20]);
        assert!(addresses.last().expect("addresses").to_string().ends_with("ws"));
        assert!(!addresses.iter().any(|address| address.to_string().contains("/99")));
    }
}
