//! Cosignatures: a peer's statement that a checkpoint only adds to all that it has seen of that log.
//!
//! C2SP `cosignature/v1` (<https://c2sp.org/tlog-cosignature>): another signature line under the checkpoint's note, by a
//! key that bears the name of the peer's own log.
//!
//! ```text
//! — mcp-zero/<peer's id> <base64(key id ‖ time, u64 BE ‖ signature)>
//!
//! signed:  cosignature/v1
//!          time <Unix seconds>
//!          <the checkpoint, without its signatures>
//! ```

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;

use crate::{
    checkpoint::{self, Checkpoint},
    key::{Key, NodeId},
};

/// C2SP signed-note signature type of cosignatures by Ed25519.
const COSIGNATURE: u8 = 0x04;

/// Cosigns a checkpoint: a signature line, without its end.
pub fn cosign(checkpoint: &Checkpoint, key: &Key, at: Timestamp) -> String {
    let (witness, time) = (key.node_id(), at.as_second().unsigned_abs());
    let signature = key.sign(&message(checkpoint, time));
    let bytes = [&checkpoint::key_id(COSIGNATURE, &witness)[..], &time.to_be_bytes(), &signature].concat();
    format!("— {} {}", checkpoint::name(&witness), STANDARD.encode(bytes))
}

/// Who cosigned a checkpoint by this line, and when by that node's clock; none if it isn't a node's valid cosignature.
pub fn verify(line: &str, checkpoint: &Checkpoint) -> Option<(NodeId, Timestamp)> {
    let (witness, encoded) = line.strip_prefix("— mcp-zero/")?.split_once(' ')?;
    let witness: NodeId = witness.parse().ok()?;
    let bytes = STANDARD.decode(encoded).ok()?;
    let (time, signature) = bytes.strip_prefix(&checkpoint::key_id(COSIGNATURE, &witness))?.split_first_chunk::<8>()?;
    let time = u64::from_be_bytes(*time);
    witness.verify(&message(checkpoint, time), signature).ok()?;
    Some((witness, Timestamp::from_second(i64::try_from(time).ok()?).ok()?))
}

/// The nodes whose valid cosignatures are under a checkpoint's note, and when each gave it.
pub fn cosigners(note: &str) -> Result<BTreeMap<NodeId, Timestamp>, checkpoint::Error> {
    let checkpoint = Checkpoint::verify(note)?;
    let lines = note.rsplit_once("\n\n").map(|(_, signatures)| signatures.lines()).into_iter().flatten();
    Ok(lines.filter_map(|line| verify(line, &checkpoint)).collect())
}

/// The key of a node's cosignatures in C2SP verifier form, for other tools.
pub fn verifier_key(witness: &NodeId) -> String {
    checkpoint::verifier_key(COSIGNATURE, witness)
}

fn message(checkpoint: &Checkpoint, time: u64) -> Vec<u8> {
    format!("cosignature/v1\ntime {time}\n{}", checkpoint.body()).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by another implementation of Ed25519 (RFC 8032's own in Python), from seeds 01… and 02…
    const LINE: &str = "— mcp-zero/12D3KooWJWoaqZhDaoEFshF7Rh1bpY9ohihFhzcW6d69Lr2NASuq smACPgAAAABlU/\
        EAZmL7yZ9CFz43i++vNM2RzRtKS1pq85db4w9bu0gTa3pZHp7GHCWzb8q1E6pusGZhE/B459PLEwmeODR4R5eNDw==";
    const VERIFIER: &str =
        "mcp-zero/12D3KooWJWoaqZhDaoEFshF7Rh1bpY9ohihFhzcW6d69Lr2NASuq+b260023e+BIE5dw6ofRdfVqNUZsNMfszLjYqRtO43ol32D1uPybOU";

    fn key(seed: u8) -> Key {
        Key::from_seed(&[seed; 32])
    }

    fn checkpoint() -> Checkpoint {
        Checkpoint { node: key(1).node_id(), size: 7, root: [9; 32] }
    }

    #[test]
    fn a_cosignature_is_byte_for_byte_what_another_implementation_makes() {
        let at = Timestamp::from_second(1_700_000_000).expect("a time");
        assert_eq!(cosign(&checkpoint(), &key(2), at), LINE);
        assert_eq!(verifier_key(&key(2).node_id()), VERIFIER);
        assert_eq!(verify(LINE, &checkpoint()), Some((key(2).node_id(), at)));
    }

    #[test]
    fn any_changed_character_of_a_cosignature_is_refused() {
        for (at, character) in LINE.char_indices().filter(|(_, c)| c.is_ascii_alphanumeric()) {
            let other = if character == 'A' { "B" } else { "A" };
            let forged = format!("{}{other}{}", &LINE[..at], &LINE[at + 1..]);
            assert_eq!(verify(&forged, &checkpoint()), None, "at {at}: {forged}");
        }
        assert_eq!(verify(LINE, &Checkpoint { size: 8, ..checkpoint() }), None);
        assert_eq!(verify("— mcp-zero/ ", &checkpoint()), None);
    }

    #[test]
    fn a_note_is_its_owners_and_its_witnesses() {
        let note = checkpoint().sign(&key(1));
        assert!(cosigners(&note).expect("signed").is_empty(), "the owner's signature is no cosignature");
        let cosigned = format!("{note}{LINE}\n— somebody.example AAAA\n");
        assert_eq!(Checkpoint::verify(&cosigned), Ok(checkpoint()));
        assert_eq!(cosigners(&cosigned).expect("signed").keys().copied().collect::<Vec<_>>(), [key(2).node_id()]);
        let unsigned = note.rsplit_once("\n\n").map(|(text, _)| format!("{text}\n\n{LINE}\n")).expect("a note");
        assert_eq!(cosigners(&unsigned), Err(checkpoint::Error::Signature));
    }
}
