//! A log as tiles (<https://c2sp.org/tlog-tiles>): files of a name and a content that never change, by which anybody who has
//! them verifies the log, without any node.
//!
//! ```text
//! checkpoint              size and root, signed
//! tile/1/000.p/3          hashes of level 8: each over 256 leaves
//! tile/0/000 … 002        hashes of leaves, 256 in a full tile
//! tile/0/003.p/17         a partial one, as long as the log has no more
//! tile/entries/000 …      entries, each behind its length in two bytes
//! ```

use crate::merkle::Hash;

/// Levels between the hashes of a tile and those of the tile above.
pub const HEIGHT: u8 = 8;
/// Hashes, or entries, of a full tile.
pub const WIDTH: u16 = 1 << HEIGHT;
/// The longest entry: its length has two bytes.
pub const MAX_ENTRY: usize = u16::MAX as usize;
/// The largest bundle of entries.
pub const MAX_BUNDLE: usize = WIDTH as usize * (2 + MAX_ENTRY);
/// The highest level that a path names. A log of 2⁶⁴ entries has eight.
const MAX_LEVEL: u8 = 63;
/// A directory has at most so many entries.
const BASE: u64 = 1_000;

/// What a tile holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Content {
    /// Entries.
    Entries,
    /// Hashes of the tree's level [`HEIGHT`] times this.
    Hashes(u8),
}

/// A tile's place in the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tile {
    /// What it holds.
    pub content: Content,
    /// Its place among those that hold the like.
    pub index: u64,
    /// How many it holds: 1 to [`WIDTH`].
    pub width: u16,
}

/// The text isn't a tile's path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the path of a tile: tile/<level>/<index>[.p/<width>] or tile/entries/<index>[.p/<width>]")]
pub struct BadPath;

/// The bytes aren't a bundle of entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a bundle of entries: it ends within an entry")]
pub struct BadBundle;

/// An entry that no bundle takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an entry of {bytes} bytes fits into no bundle: at most {MAX_ENTRY}")]
pub struct TooLong {
    /// Its size.
    pub bytes: usize,
}

impl Tile {
    /// The full one of this place.
    pub fn full(content: Content, index: u64) -> Self {
        Self { content, index, width: WIDTH }
    }

    /// Whether it is full: then its content never changes.
    pub fn is_full(&self) -> bool {
        self.width == WIDTH
    }

    /// Where it begins, among the hashes of its level or the entries; none if that is beyond any log.
    pub fn first(&self) -> Option<u64> {
        self.index.checked_mul(WIDTH.into())
    }

    /// Whether a log of `size` entries has it.
    pub fn is_of(&self, size: u64) -> bool {
        let end = self.first().and_then(|first| first.checked_add(self.width.into()));
        end.is_some_and(|end| end <= count(self.content, size))
    }

    /// The tile of a log of `size` entries that holds the entry, or the hash of a level, at this place; none if it has none.
    pub fn holding(content: Content, place: u64, size: u64) -> Option<Self> {
        let (index, count) = (place / u64::from(WIDTH), count(content, size));
        let width = count.checked_sub(index * u64::from(WIDTH)).filter(|_| place < count)?;
        Some(Self { content, index, width: width.min(WIDTH.into()) as u16 })
    }

    /// Those that make up a log of `size` entries: of each content the full ones and the partial one, if there is one.
    pub fn all(size: u64) -> impl Iterator<Item = Self> {
        let levels = (0..=u64::BITS as u8 / HEIGHT).map(Content::Hashes);
        levels.chain([Content::Entries]).flat_map(move |content| Self::row(content, size))
    }

    /// The same of one content.
    pub fn row(content: Content, size: u64) -> impl Iterator<Item = Self> {
        let (full, rest) = (count(content, size) / u64::from(WIDTH), count(content, size) % u64::from(WIDTH));
        let partial = (rest > 0).then_some(Self { content, index: full, width: rest as u16 });
        (0..full).map(move |index| Self::full(content, index)).chain(partial)
    }

    /// Its path: `tile/0/x001/x234/067`, `tile/entries/000.p/5`.
    pub fn path(&self) -> String {
        let (mut rest, mut index) = (self.index / BASE, format!("{:03}", self.index % BASE));
        while rest > 0 {
            index = format!("x{:03}/{index}", rest % BASE);
            rest /= BASE;
        }
        let content = match self.content {
            Content::Entries => "entries".to_owned(),
            Content::Hashes(level) => level.to_string(),
        };
        let partial = if self.is_full() { String::new() } else { format!(".p/{}", self.width) };
        format!("tile/{content}/{index}{partial}")
    }

    /// Reads a path. There is one spelling of each.
    ///
    /// # Errors
    /// It isn't one.
    pub fn parse(path: &str) -> Result<Self, BadPath> {
        let tile = Self::read(path).ok_or(BadPath)?;
        if tile.path() == path { Ok(tile) } else { Err(BadPath) }
    }

    fn read(path: &str) -> Option<Self> {
        let (content, rest) = path.strip_prefix("tile/")?.split_once('/')?;
        let content = match content {
            "entries" => Content::Entries,
            level => Content::Hashes(level.parse().ok().filter(|level| *level <= MAX_LEVEL)?),
        };
        let (index, width) = match rest.split_once(".p/") {
            Some((index, width)) => (index, width.parse().ok().filter(|width| (1..WIDTH).contains(width))?),
            None => (rest, WIDTH),
        };
        let mut number = 0u64;
        for part in index.split('/') {
            let part: u64 = part.strip_prefix('x').unwrap_or(part).parse().ok().filter(|part| *part < BASE)?;
            number = number.checked_mul(BASE)?.checked_add(part)?;
        }
        Some(Self { content, index: number, width })
    }
}

/// How many entries, or hashes of a level, a log of `size` entries has.
fn count(content: Content, size: u64) -> u64 {
    match content {
        Content::Entries => size,
        Content::Hashes(level) => size.checked_shr(u32::from(level) * u32::from(HEIGHT)).unwrap_or_default(),
    }
}

/// A tile of hashes, as bytes.
pub fn encode(hashes: &[Hash]) -> Vec<u8> {
    hashes.concat()
}

/// The hashes of a tile; none if the bytes aren't whole hashes.
pub fn decode(bytes: &[u8]) -> Option<Vec<Hash>> {
    let (hashes, rest) = bytes.as_chunks();
    rest.is_empty().then(|| hashes.to_vec())
}

/// A bundle of entries, as bytes.
///
/// # Errors
/// One of them is too long.
pub fn bundle<'a>(entries: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<u8>, TooLong> {
    let mut bytes = Vec::new();
    for entry in entries {
        let length = u16::try_from(entry.len()).map_err(|_| TooLong { bytes: entry.len() })?;
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(entry);
    }
    Ok(bytes)
}

/// The entries of a bundle.
///
/// # Errors
/// It ends within an entry.
pub fn unbundle(mut bytes: &[u8]) -> Result<Vec<&[u8]>, BadBundle> {
    let mut entries = Vec::new();
    while !bytes.is_empty() {
        let (length, rest) = bytes.split_first_chunk().ok_or(BadBundle)?;
        let (entry, rest) = rest.split_at_checked(u16::from_be_bytes(*length).into()).ok_or(BadBundle)?;
        entries.push(entry);
        bytes = rest;
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_have_one_spelling() {
        for (path, content, index, width) in [
            ("tile/0/000", Content::Hashes(0), 0, 256),
            ("tile/0/x001/x234/067", Content::Hashes(0), 1_234_067, 256),
            ("tile/0/x001/000.p/255", Content::Hashes(0), 1_000, 255),
            ("tile/63/999.p/1", Content::Hashes(63), 999, 1),
            ("tile/entries/x018/x446/x744/x073/x709/x551/615", Content::Entries, u64::MAX, 256),
        ] {
            let tile = Tile { content, index, width };
            assert_eq!((tile.path().as_str(), Tile::parse(path)), (path, Ok(tile)));
        }
        for bad in [
            "",
            "tile",
            "tile/",
            "tile/0",
            "tile/0/",
            "tile/0/0",
            "tile/0/0000",
            "tile/00/000",
            "tile/+1/000",
            "tile/64/000",
            "tile/256/000",
            "tile/-1/000",
            "tile/0/1000",
            "tile/0/001/000",
            "tile/0/x000/000",
            "tile/0/x001",
            "tile/0/000.p/0",
            "tile/0/000.p/256",
            "tile/0/000.p/01",
            "tile/0/000.p/",
            "tile/0/000.p",
            "tile/0/000.p/1/",
            "tile/0/000.p/1.p/1",
            "tile/0/xx00/000",
            "tile/0/+00",
            "tile/data/000",
            "tile/entries/000/",
            "tile/entries/../000",
            "/tile/0/000",
            "tile//000",
            "tile/0/x018/x446/x744/x073/x709/x551/616",
            "tile/0/x999/x999/x999/x999/x999/x999/x999/999",
            "tile/0/٠٠٠",
        ] {
            assert_eq!(Tile::parse(bad), Err(BadPath), "{bad}");
        }
    }

    #[test]
    fn a_log_has_the_tiles_that_it_fills() {
        let all = |size| Tile::all(size).map(|tile| tile.path()).collect::<Vec<_>>();
        assert_eq!(all(0), [""; 0]);
        assert_eq!(all(1), ["tile/0/000.p/1", "tile/entries/000.p/1"]);
        assert_eq!(all(256), ["tile/0/000", "tile/1/000.p/1", "tile/entries/000"]);
        assert_eq!(all(257), ["tile/0/000", "tile/0/001.p/1", "tile/1/000.p/1", "tile/entries/000", "tile/entries/001.p/1"]);
        assert_eq!(Tile::all(65_536 + 256).filter(|tile| tile.content == Content::Hashes(1)).count(), 2);
        assert!(Tile::all(65_536).any(|tile| tile.path() == "tile/2/000.p/1"));
        for size in [1, 255, 256, 257, 70_000] {
            assert!(Tile::all(size).all(|tile| tile.is_of(size)), "{size}");
        }
        for (path, size) in [("tile/0/000", 255), ("tile/0/001.p/1", 256), ("tile/1/000.p/1", 255), ("tile/9/000.p/1", u64::MAX)] {
            assert!(!Tile::parse(path).expect(path).is_of(size), "{path} of {size}");
        }
        assert!(!Tile::full(Content::Entries, u64::MAX).is_of(u64::MAX), "no overflow");
        for (place, path) in [(0, "tile/0/000"), (255, "tile/0/000"), (256, "tile/0/001.p/2"), (257, "tile/0/001.p/2")] {
            assert_eq!(Tile::holding(Content::Hashes(0), place, 258).map(|tile| tile.path()).as_deref(), Some(path), "{place}");
        }
        assert_eq!(Tile::holding(Content::Hashes(0), 258, 258), None);
        assert_eq!(Tile::holding(Content::Hashes(1), 0, 258).map(|tile| tile.path()).as_deref(), Some("tile/1/000.p/1"));
        assert!(Tile::parse("tile/7/000.p/255").expect("a path").is_of(u64::MAX), "the largest log is no special case");
    }

    #[test]
    fn bundles_hold_entries_and_nothing_else() {
        let (empty, long, most): (&[u8], &[u8], _) = (b"", b"entry", vec![7; MAX_ENTRY]);
        let entries = [long, empty, &most];
        let bytes = bundle(entries).expect("none is too long");
        assert_eq!(unbundle(&bytes), Ok(entries.to_vec()));
        assert_eq!(unbundle(&[]), Ok(Vec::new()));
        for cut in [1, 6, 8, bytes.len() - 1] {
            assert_eq!(unbundle(&bytes[..cut]), Err(BadBundle), "{cut}");
        }
        assert_eq!(bundle([&vec![0; MAX_ENTRY + 1][..]]), Err(TooLong { bytes: MAX_ENTRY + 1 }));
        assert_eq!(decode(&encode(&[[1; 32], [2; 32]])), Some(vec![[1; 32], [2; 32]]));
        assert_eq!(decode(&[0; 33]), None);
    }

    proptest! {
        #[test]
        fn whatever_comes_is_read_in_one_way_or_refused(
            path in "(tile/)?(entries|[0-9]{1,3})/(x[0-9]{3}/){0,7}[0-9]{3}(\\.p/[0-9]{1,3})?|.{0,60}",
            bytes in proptest::collection::vec(any::<u8>(), 0..2_000),
        ) {
            if let Ok(tile) = Tile::parse(&path) {
                prop_assert_eq!(tile.path(), path);
                prop_assert!((1..=WIDTH).contains(&tile.width));
            }
            if let Ok(entries) = unbundle(&bytes) {
                prop_assert_eq!(bundle(entries), Ok(bytes));
            }
        }

        #[test]
        fn every_tile_has_a_path_of_its_own(level in 0..=MAX_LEVEL, index in any::<u64>(), width in 1..=WIDTH) {
            for content in [Content::Hashes(level), Content::Entries] {
                let tile = Tile { content, index, width };
                prop_assert_eq!(Tile::parse(&tile.path()), Ok(tile));
            }
        }
    }
}
