//! What a snapshot consists of: chunks of the base, as long as nothing has changed in them, and others, cut anew.
//!
//! ```text
//! base      │ 0 │  1  │ 2 │  3   │ 4 │ 5 │
//! changed                 x x
//! kept      │ 0 │  1  │            │ 4 │ 5 │       not read at all
//! cut anew              │  2' │ 3'  │              from the chunk that the first change is in, until the cuts meet the old ones
//! ```
//! The result is the same, to the byte, as if all had been cut anew: where a chunk ends depends on its own bytes and the one
//! behind them, so that where two cuts meet before the same bytes all others do.

use std::collections::VecDeque;

use bytes::Bytes;
use protocol::Digest;
use store::{Error, View};

use super::{
    base::Base,
    cutter::{Cut, Cutter, Sizes},
};

/// State that is read at once where all of it is read.
const PAGE: usize = 1 << 20;
/// Where only a stretch is: most have two chunks.
const STRETCH: usize = 128 << 10;
/// Changed keys that are read at once.
const CHANGES: usize = 1_024;

/// The next part of a snapshot.
#[derive(Debug)]
pub(super) enum Piece {
    /// A chunk of the base.
    Kept(Cut, (Digest, u32)),
    /// Another chunk.
    Cut(Cut, Bytes),
    /// The base was no good: what came so far is void.
    Void,
}

/// One pass over a state.
pub(super) struct Pass {
    view: Box<dyn View>,
    base: Base,
    at: At,
    cutter: Cutter,
    /// The last key that was put into the cutter.
    read: Option<String>,
    /// Whether it was the last of all.
    ended: bool,
    changes: Changes,
    keys: u64,
    stream: u64,
}

/// Where it is.
#[derive(Debug, Clone, Copy)]
enum At {
    /// Chunks of the base are kept from one on up to another.
    Keeping(usize, usize),
    Cutting,
}

impl Pass {
    /// Goes on from a base; from none reads all of it.
    pub(super) async fn new(view: Box<dyn View>, base: Option<Base>, sizes: Sizes) -> Result<Self, Error> {
        let (cutter, base) = (Cutter::new(sizes), base.unwrap_or_default());
        let mut pass =
            Self { view, base, at: At::Cutting, cutter, read: None, ended: false, changes: Changes::default(), keys: 0, stream: 0 };
        if !pass.base.cuts.is_empty() {
            pass.at = At::Keeping(0, pass.kept_from(0).await?);
        }
        Ok(pass)
    }

    /// The next piece; none when the pass is over.
    pub(super) async fn next(&mut self) -> Result<Option<Piece>, Error> {
        loop {
            match self.at {
                At::Keeping(at, end) if at < end => {
                    self.at = At::Keeping(at + 1, end);
                    let (cut, chunk) = (self.base.cuts[at].clone(), self.base.index.0[at]);
                    self.keys += u64::from(cut.keys);
                    self.stream += u64::from(chunk.1);
                    return Ok(Some(Piece::Kept(cut, chunk)));
                }
                At::Keeping(_, end) if end == self.base.cuts.len() => return self.end().await,
                At::Keeping(_, end) => {
                    self.at = At::Cutting;
                    if !self.seek(end).await? {
                        return Ok(Some(self.void()));
                    }
                }
                At::Cutting => match self.cutter.next(self.ended) {
                    Some((cut, bytes)) => {
                        self.keys += u64::from(cut.keys);
                        self.stream += bytes.len() as u64;
                        if let Some((from, end)) = self.meets().await? {
                            self.at = At::Keeping(from, end);
                        }
                        return Ok(Some(Piece::Cut(cut, bytes)));
                    }
                    None if self.ended => return self.end().await,
                    None => self.read().await?,
                },
            }
        }
    }

    /// Keys of the state, and bytes of keys and values, as the chunks have them.
    pub(super) fn totals(&self) -> (u64, u64) {
        (self.keys, self.stream.saturating_sub(8 * self.keys))
    }

    /// Chunks of the base are only as good as what was known of changes: what is held is counted apart from that.
    async fn end(&mut self) -> Result<Option<Piece>, Error> {
        if self.base.cuts.is_empty() {
            return Ok(None);
        }
        let held = self.view.held().await?;
        Ok(((held.keys, held.bytes) != self.totals()).then(|| self.void()))
    }

    fn void(&mut self) -> Piece {
        self.base = Base::default();
        self.cutter.clear();
        (self.at, self.read, self.ended, self.keys, self.stream) = (At::Cutting, None, false, 0, 0);
        Piece::Void
    }

    async fn read(&mut self) -> Result<(), Error> {
        let page = if self.base.cuts.is_empty() { PAGE } else { STRETCH };
        let pairs = self.view.scan(self.read.as_deref(), page).await?;
        match pairs.last() {
            Some((last, _)) => self.read = Some(last.clone()),
            None => self.ended = true,
        }
        pairs.into_iter().for_each(|(key, value)| self.cutter.put(key, &value));
        Ok(())
    }

    /// Begins to cut where a chunk of the base begins. False if it can't begin there.
    async fn seek(&mut self, chunk: usize) -> Result<bool, Error> {
        // What begins the first chunk may be another key by now.
        if chunk == 0 {
            return Ok(true);
        }
        let place = self.base.cuts[chunk].place.clone();
        let Some(value) = self.view.get(&place.key).await? else { return Ok(false) };
        self.read = Some(place.key.clone());
        Ok(self.cutter.resume(place, &value))
    }

    /// Whether the next chunk begins where one of the base does, with the same bytes: chunks to keep, from one up to another.
    async fn meets(&mut self) -> Result<Option<(usize, usize)>, Error> {
        if self.base.cuts.is_empty() {
            return Ok(None);
        }
        let Some(place) = self.cutter.place() else { return Ok(None) };
        // What changed before it is behind. If the pair that it is in did, that isn't, and nothing can be kept from here on.
        while self.changes.first(&mut *self.view).await?.is_some_and(|key| *key < place.key) {
            self.changes.pass();
        }
        let Ok(from) = self.base.cuts.binary_search_by(|cut| cut.place.cmp(&place)) else { return Ok(None) };
        let end = self.kept_from(from).await?;
        if end <= from {
            return Ok(None);
        }
        self.cutter.clear();
        self.ended = false;
        Ok(Some((from, end)))
    }

    /// Up to where chunks of the base can be kept, from one on that they can be kept from.
    async fn kept_from(&mut self, from: usize) -> Result<usize, Error> {
        let cuts = &self.base.cuts;
        let unsound = self.base.unsound.range(from..).next().copied().unwrap_or(cuts.len());
        let changed = match self.changes.first(&mut *self.view).await? {
            // The chunk that begins before the pair does: were it the one that begins with it, where the one before that
            // ends might be another place.
            Some(key) => {
                let before = |cut: &Cut| (cut.place.key.as_str(), cut.place.offset) < (key.as_str(), 0);
                cuts.partition_point(before).saturating_sub(1)
            }
            None => cuts.len(),
        };
        Ok(unsound.min(changed))
    }
}

/// The keys that changed, in order.
#[derive(Debug, Default)]
struct Changes {
    page: VecDeque<String>,
    passed: Option<String>,
    ended: bool,
}

impl Changes {
    /// The first that wasn't passed.
    async fn first(&mut self, view: &mut dyn View) -> Result<Option<&String>, Error> {
        if self.page.is_empty() && !self.ended {
            self.page = view.changed(self.passed.as_deref(), CHANGES).await?.into();
            self.ended = self.page.len() < CHANGES;
        }
        Ok(self.page.front())
    }

    fn pass(&mut self) {
        self.passed = self.page.pop_front();
    }
}
