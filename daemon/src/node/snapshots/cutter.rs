//! Where the stream of a state's pairs is cut, and where that is in the state.

use std::collections::VecDeque;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use fastcdc::v2020::FastCDC;
use protocol::snapshot::{AVERAGE_CHUNK, MAX_CHUNK, MIN_CHUNK, put_pair};

/// How large chunks are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    pub(super) min: usize,
    pub(super) average: usize,
    pub(super) max: usize,
}

/// Of snapshots. Notes of bases are of these sizes: whoever changes them, or how it is cut, changes their version.
pub(super) const SIZES: Sizes = Sizes { min: MIN_CHUNK, average: AVERAGE_CHUNK, max: MAX_CHUNK };

/// A place in the stream: the key whose pair it is in, and how many bytes of the pair are before it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) key: String,
    pub(super) offset: u32,
}

/// What is known of a chunk beside its bytes: where it begins, and how many keys' pairs begin in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cut {
    pub(super) place: Place,
    pub(super) keys: u32,
}

/// The stream from a chunk's beginning on, as far as it was read.
#[derive(Debug)]
pub(super) struct Cutter {
    sizes: Sizes,
    stream: BytesMut,
    /// Where in the whole stream (from where it was begun) its first byte is.
    at: u64,
    /// The pairs it has bytes of: their keys, and where they begin.
    pairs: VecDeque<(u64, String)>,
}

impl Cutter {
    pub(super) fn new(sizes: Sizes) -> Self {
        Self { sizes, stream: BytesMut::new(), at: 0, pairs: VecDeque::new() }
    }

    /// Begins anew.
    pub(super) fn clear(&mut self) {
        self.stream.clear();
        self.pairs.clear();
        self.at = 0;
    }

    /// Begins anew at a place in a pair. False if the pair ends before it.
    pub(super) fn resume(&mut self, place: Place, value: &[u8]) -> bool {
        self.clear();
        put_pair(&mut self.stream, &place.key, value);
        self.pairs.push_back((0, place.key));
        let offset = place.offset as usize;
        if offset >= self.stream.len() {
            return false;
        }
        self.stream.advance(offset);
        self.at = u64::from(place.offset);
        true
    }

    /// Appends a pair.
    pub(super) fn put(&mut self, key: String, value: &[u8]) {
        let begins = self.at + self.stream.len() as u64;
        put_pair(&mut self.stream, &key, value);
        self.pairs.push_back((begins, key));
    }

    /// Where the next chunk begins; none if no more of the stream was read.
    pub(super) fn place(&self) -> Option<Place> {
        let (begins, key) = self.pairs.front()?;
        Some(Place { key: key.clone(), offset: u32::try_from(self.at - begins).expect("pairs are far below 4 GiB") })
    }

    /// The next chunk, if it ends in what was read: where it does depends on its own bytes and the one behind them.
    pub(super) fn next(&mut self, all: bool) -> Option<(Cut, Bytes)> {
        let length = self.length(all)?;
        if length == self.stream.len() && !all {
            return None;
        }
        let place = self.place()?;
        let bytes = self.stream.split_to(length).freeze();
        let begun = self.at;
        self.at += length as u64;
        let keys = self.pairs.iter().take_while(|(begins, _)| *begins < self.at).filter(|(begins, _)| *begins >= begun).count();
        // The pair that the next byte is in stays.
        while self.pairs.get(1).is_some_and(|(begins, _)| *begins <= self.at) {
            self.pairs.pop_front();
        }
        if self.stream.is_empty() {
            self.pairs.clear();
        }
        Some((Cut { place, keys: u32::try_from(keys).expect("a chunk is far below 4 GiB") }, bytes))
    }

    /// How long the next chunk is, as far as can be said.
    fn length(&mut self, all: bool) -> Option<usize> {
        let Sizes { min, average, max } = self.sizes;
        let length = self.stream.len();
        // FastCDC looks at bytes in pairs, and not at a last one without a second: where a chunk ends would depend on whether
        // one or two bytes are behind it.
        if all && !length.is_multiple_of(2) {
            self.stream.put_u8(0);
        }
        let next = FastCDC::new(&self.stream, min, average, max).next().map(|chunk| chunk.length.min(length));
        self.stream.truncate(length);
        next
    }
}

#[cfg(test)]
mod tests {
    use protocol::Digest;

    use super::*;

    #[test]
    fn where_a_chunk_ends_depends_on_nothing_but_its_bytes_and_the_one_behind() {
        let bytes: Vec<u8> = (0..100_u8).flat_map(|part| *Digest::blake3(&[part]).as_bytes()).collect();
        let ends = |length: usize| {
            let mut cutter = Cutter::new(Sizes { min: 64, average: 256, max: 1_024 });
            cutter.put("k".into(), &bytes[..length]);
            std::iter::from_fn(|| cutter.next(true))
                .scan(0, |end, (_, chunk)| {
                    *end += chunk.len();
                    Some(*end)
                })
                .collect::<Vec<_>>()
        };
        let whole = ends(bytes.len());
        assert!(whole.len() > 8, "{whole:?}");
        for length in 1..bytes.len() {
            let mut expected: Vec<usize> = whole.iter().copied().take_while(|end| *end < 9 + length).collect();
            expected.push(9 + length);
            // The length of the value is in the first chunk, and in none of its cuts.
            assert_eq!(ends(length), expected, "{length}");
        }
    }
}
