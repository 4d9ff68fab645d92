//! What the next snapshot needs to know of this one: where in the state each of its chunks begins.
//!
//! The store keeps it as the note of the state's base, beside what changed since then (`store::Tracking`). It is about this
//! node's store alone, so it is no part of the snapshot that others see.
//!
//! ```text
//! version (1) │ bytes of the snapshot's id (1) │ it │ for each chunk, in order:
//!     bytes of the key that are the last one's (u16 BE), others (u16), offset (u32), keys (u32), the others
//! ```

use std::collections::BTreeSet;

use bytes::{Buf as _, BufMut as _};
use protocol::{SnapshotId, snapshot::Index};

use super::cutter::{Cut, Place};

/// The layout, and how streams are cut ([`super::cutter::SIZES`]). Of another version nothing is known.
const VERSION: u8 = 1;

/// The note of a base.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Note {
    /// The snapshot.
    pub(super) snapshot: SnapshotId,
    /// Its chunks.
    pub(super) cuts: Vec<Cut>,
}

impl Note {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        let id = self.snapshot.to_string();
        bytes.put_u8(u8::try_from(id.len()).expect("ids have 35 bytes"));
        bytes.put_slice(id.as_bytes());
        let mut last = "";
        for Cut { place: Place { key, offset }, keys } in &self.cuts {
            let shared = last.bytes().zip(key.bytes()).take_while(|(last, this)| last == this).count();
            let length = |bytes: usize| u16::try_from(bytes).expect("keys have at most 1 KiB");
            bytes.put_u16(length(shared));
            bytes.put_u16(length(key.len() - shared));
            bytes.put_u32(*offset);
            bytes.put_u32(*keys);
            bytes.put_slice(&key.as_bytes()[shared..]);
            last = key;
        }
        bytes
    }

    /// None if it isn't one, or of another version.
    pub(super) fn decode(mut bytes: &[u8]) -> Option<Self> {
        if bytes.try_get_u8().ok()? != VERSION {
            return None;
        }
        let length = usize::from(bytes.try_get_u8().ok()?);
        let (id, mut bytes) = bytes.split_at_checked(length)?;
        let snapshot = std::str::from_utf8(id).ok()?.parse().ok()?;
        let mut cuts: Vec<Cut> = Vec::new();
        while bytes.has_remaining() {
            let (shared, own) = (usize::from(bytes.try_get_u16().ok()?), usize::from(bytes.try_get_u16().ok()?));
            let (offset, keys) = (bytes.try_get_u32().ok()?, bytes.try_get_u32().ok()?);
            let last = cuts.last().map_or(&[][..], |last| last.place.key.as_bytes());
            let (own, rest) = bytes.split_at_checked(own)?;
            let place = Place { key: String::from_utf8([last.get(..shared)?, own].concat()).ok()?, offset };
            if cuts.last().is_some_and(|last| last.place >= place) {
                return None;
            }
            cuts.push(Cut { place, keys });
            bytes = rest;
        }
        Some(Self { snapshot, cuts })
    }
}

/// A snapshot that the next one goes on from.
#[derive(Debug, Default)]
pub(super) struct Base {
    /// Where its chunks begin.
    pub(super) cuts: Vec<Cut>,
    /// Its chunks: as many.
    pub(super) index: Index,
    /// Those that aren't there as they should be.
    pub(super) unsound: BTreeSet<usize>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_come_back_and_nothing_else_passes() {
        let cut = |key: &str, offset, keys| Cut { place: Place { key: key.into(), offset }, keys };
        let cuts = vec![cut("", 0, 3), cut("a/é", 0, 1), cut("a/é", 70_000, 0), cut("a/ê", 7, 9), cut("b", 0, 1)];
        let note = Note { snapshot: SnapshotId::new(), cuts };
        let bytes = note.encode();
        assert_eq!(Note::decode(&bytes), Some(note));
        let begins = 2 + 35;
        let decodes = (0..bytes.len()).filter(|end| Note::decode(&bytes[..*end]).is_some());
        assert_eq!(decodes.collect::<Vec<_>>(), [begins, begins + 12, begins + 28, begins + 40, begins + 53], "whole chunks alone");
        assert_eq!(Note::decode(&[&[VERSION + 1], &bytes[1..]].concat()), None, "of another version");
        assert_eq!(Note::decode(&[&bytes[..], &bytes[begins..]].concat()), None, "not in order");
        assert_eq!(Note::decode(&[&bytes[..], &[0xff; 12]].concat()), None);
    }
}
