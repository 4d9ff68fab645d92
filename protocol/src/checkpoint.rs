//! Checkpoints: a node's signed statement of its trace's size and root.
//!
//! A C2SP signed note (<https://c2sp.org/signed-note>) over a C2SP checkpoint (<https://c2sp.org/tlog-checkpoint>),
//! so that existing transparency-log tools can verify it:
//!
//! ```text
//! mcp-zero/<node id>               origin, and the signing key's name
//! <size>
//! <root, base64>
//!
//! — <origin> <base64(key id ‖ signature)>
//! ```

use base64::{Engine as _, engine::general_purpose::STANDARD};
use sha2::{Digest as _, Sha256};

use crate::{
    key::{Key, NodeId},
    merkle::{Hash, base64_hash},
};

/// C2SP signed-note signature type of Ed25519.
const ED25519: u8 = 0x01;
/// Longer notes are refused unread; ours take 300 bytes, and a cosignature adds as much.
const MAX_NOTE: usize = 16 * 1024;

/// The statement itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The log's node: it keeps one log, whatever mesh it is in.
    pub node: NodeId,
    /// Leaves in the tree.
    pub size: u64,
    /// The tree's root.
    pub root: Hash,
}

/// Why a checkpoint is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The text isn't a signed note over a checkpoint of ours.
    #[error("not a signed checkpoint of an MCP-ZERO trace")]
    Malformed,
    /// The node of its origin didn't sign it.
    #[error("the checkpoint's signature does not verify")]
    Signature,
}

impl Checkpoint {
    /// The log's origin line.
    pub fn origin(&self) -> String {
        format!("mcp-zero/{}", self.node)
    }

    /// The key in C2SP verifier form (`<name>+<key id>+<key>`), for other tools.
    pub fn verifier_key(&self) -> String {
        let origin = self.origin();
        let key = [&[ED25519][..], self.node.as_bytes()].concat();
        format!("{origin}+{}+{}", crate::digest::hex(&key_id(&origin, &self.node)), STANDARD.encode(key))
    }

    /// Signs it as a note with the node's key.
    pub fn sign(&self, key: &Key) -> String {
        let (origin, body) = (self.origin(), self.body());
        let signature = [&key_id(&origin, &self.node)[..], &key.sign(body.as_bytes())].concat();
        format!("{body}\n— {origin} {}\n", STANDARD.encode(signature))
    }

    /// Reads a note and verifies the signature of the node that its origin names. Other signatures are ignored.
    pub fn verify(note: &str) -> Result<Self, Error> {
        if note.len() > MAX_NOTE {
            return Err(Error::Malformed);
        }
        let (text, signatures) = note.rsplit_once("\n\n").ok_or(Error::Malformed)?;
        let checkpoint = Self::parse(text).ok_or(Error::Malformed)?;
        let origin = checkpoint.origin();
        let id = key_id(&origin, &checkpoint.node);
        let body = checkpoint.body();
        let verifies = signatures.lines().any(|line| {
            let encoded = line.strip_prefix("— ").and_then(|rest| rest.strip_prefix(origin.as_str())?.strip_prefix(' '));
            let bytes = encoded.and_then(|encoded| STANDARD.decode(encoded).ok()).unwrap_or_default();
            bytes.strip_prefix(&id).is_some_and(|signature| checkpoint.node.verify(body.as_bytes(), signature).is_ok())
        });
        if verifies && format!("{text}\n") == body { Ok(checkpoint) } else { Err(Error::Signature) }
    }

    /// Whether the two can't both be of one log: one node, one size, two roots.
    pub fn contradicts(&self, other: &Self) -> bool {
        self.node == other.node && self.size == other.size && self.root != other.root
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let node = lines.next()?.strip_prefix("mcp-zero/")?;
        let (size, root) = (lines.next()?, lines.next()?);
        lines.next().is_none().then_some(())?;
        Some(Self { node: node.parse().ok()?, size: size.parse().ok()?, root: base64_hash::parse(root)? })
    }

    fn body(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin(), self.size, STANDARD.encode(self.root))
    }
}

/// The first four bytes of `SHA-256(name ‖ 0x0A ‖ 0x01 ‖ public key)`.
fn key_id(name: &str, node: &NodeId) -> [u8; 4] {
    let hash = Sha256::new().chain_update(name).chain_update([b'\n', ED25519]).chain_update(node.as_bytes()).finalize();
    [hash[0], hash[1], hash[2], hash[3]]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoint(key: &Key) -> Checkpoint {
        Checkpoint { node: key.node_id(), size: 7, root: [9; 32] }
    }

    #[test]
    fn a_note_round_trips_and_names_its_verifier() {
        let key = Key::generate();
        let note = checkpoint(&key).sign(&key);
        assert_eq!(Checkpoint::verify(&note).expect("own note"), checkpoint(&key));
        assert!(checkpoint(&key).verifier_key().contains(&key.node_id().to_string()));
    }

    #[test]
    fn any_changed_character_is_refused() {
        let key = Key::generate();
        let note = checkpoint(&key).sign(&key);
        for (at, character) in note.char_indices().filter(|(_, c)| c.is_ascii_alphanumeric()) {
            let other = if character == 'A' { "B" } else { "A" };
            let forged = format!("{}{other}{}", &note[..at], &note[at + 1..]);
            assert!(Checkpoint::verify(&forged).is_err(), "at {at}: {forged}");
        }
        assert_eq!(Checkpoint::verify(&checkpoint(&key).sign(&Key::generate())), Err(Error::Signature));
        assert_eq!(Checkpoint::verify("no note"), Err(Error::Malformed));
    }
}
