//! Our names for nodes and libp2p's: both hold the same Ed25519 key.

use libp2p::{
    PeerId,
    identity::{self, Keypair, ed25519},
};
use protocol::{Key, NodeId};

/// What stands before the key in a PeerId: identity multihash of 36 bytes over the protobuf of an Ed25519 key.
const PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

/// The node's key as libp2p wants it.
pub(crate) fn keypair(key: &Key) -> Keypair {
    let mut seed = *key.seed();
    // Zeroizes `seed` as it reads it.
    let secret = ed25519::SecretKey::try_from_bytes(&mut seed).expect("a seed has 32 bytes");
    ed25519::Keypair::from(secret).into()
}

/// The PeerId of `node`.
pub(crate) fn peer_of(node: NodeId) -> PeerId {
    let key = ed25519::PublicKey::try_from_bytes(node.as_bytes()).expect("a node id holds a valid key");
    identity::PublicKey::from(key).to_peer_id()
}

/// The node of `peer`, where its key is an Ed25519 key of full order.
pub(crate) fn node_of(peer: &PeerId) -> Option<NodeId> {
    let bytes = peer.to_bytes();
    let key = bytes.strip_prefix(&PREFIX)?.try_into().ok()?;
    NodeId::from_bytes(key).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_agree_with_libp2p() {
        let key = Key::generate();
        let peer = keypair(&key).public().to_peer_id();
        assert_eq!(peer, peer_of(key.node_id()));
        assert_eq!(node_of(&peer), Some(key.node_id()));
        assert_eq!(peer.to_string(), key.node_id().to_string());
    }
}
