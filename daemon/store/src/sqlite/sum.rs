//! The checksum of a row: disks flip bits, and SQLite doesn't look.
//!
//! ```text
//! sum (64 bits) = hash(table, key, length) cut to 32 │ hash(table, key, length, content) cut to 32        BLAKE3
//!                 verified where keys are listed     │ verified where content is read
//! ```
//! The key is part of both halves, so a row that lies under another key shows, too. Where the first half doesn't match, the key
//! itself may be what changed: then it is looked for among the keys that differ from what was read in one bit. What is
//! known of a damaged row's key decides what a look-up that finds nothing is worth ([`super::damage::Damage`]).

use rusqlite::{Row, types::ValueRef};

use crate::error::DamagedRow;

/// A table whose rows have sums. The numbers are part of the sums on disk: never change one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Table {
    State = 0,
    Record = 1,
    Usage = 2,
    Answer = 3,
    Log = 4,
    Node = 5,
    Held = 6,
    Mark = 7,
    Base = 8,
    Change = 9,
}

/// A value of a row, as it counts for the sum.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Part<'a> {
    Nothing,
    Number(i64),
    Bytes(&'a [u8]),
}

/// The parts of a row: its key, and what else is looked at without the content, come first.
#[derive(Debug, Clone)]
pub(super) struct Parts<'a> {
    pub(super) table: Table,
    pub(super) head: Vec<Part<'a>>,
    pub(super) body: Vec<Part<'a>>,
}

/// Where the parts of a row stand among the columns of [`Layout::columns`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    pub(super) name: &'static str,
    /// All columns, the sum last; those of the key first.
    pub(super) columns: &'static str,
    /// So many of them are the key.
    pub(super) key: usize,
    /// So many are the head.
    head: usize,
    /// So many are there, but for the sum.
    count: usize,
    /// Whether the length of the last one is part of the head.
    measured: bool,
}

impl Table {
    pub(super) const ALL: [Self; 10] = [
        // What a node needs first, and what is small, comes first.
        Self::Record,
        Self::Usage,
        Self::Held,
        Self::Mark,
        Self::Base,
        Self::Change,
        Self::Answer,
        Self::Node,
        Self::State,
        Self::Log,
    ];

    pub(super) fn layout(self) -> Layout {
        let layout = |name, columns, (key, head, count), measured| Layout { name, columns, key, head, count, measured };
        match self {
            Self::State => layout("state", "agent, key, value, sum", (2, 2, 3), true),
            Self::Record => layout("record", "kind, id, value, sum", (2, 2, 3), true),
            Self::Usage => layout("usage", "agreement, bucket, calls, fuel, wall_us, egress_bytes, sum", (2, 2, 6), false),
            Self::Answer => layout("answer", "scope, key, expires, value, sum", (2, 3, 4), true),
            Self::Log => layout("log", "position, operation, leaf, entry, sum", (1, 1, 4), false),
            Self::Node => layout("node", "level, position, hash, sum", (2, 2, 3), false),
            Self::Held => layout("held", "agent, keys, bytes, since, mark, changes, sum", (1, 1, 6), false),
            Self::Mark => layout("mark", "last, sum", (0, 0, 1), false),
            Self::Base => layout("base", "agent, note, sum", (1, 1, 2), false),
            Self::Change => layout("change", "agent, key, mark, sum", (2, 2, 3), false),
        }
    }
}

impl<'a> Part<'a> {
    /// A column, whatever is in it: what isn't of its type any more has another sum.
    pub(super) fn of(row: &'a Row<'_>, column: usize) -> rusqlite::Result<Self> {
        Ok(match row.get_ref(column)? {
            ValueRef::Null => Self::Nothing,
            ValueRef::Integer(number) => Self::Number(number),
            // No column is of this type.
            ValueRef::Real(_) => Self::Nothing,
            ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Self::Bytes(bytes),
        })
    }

    pub(super) fn maybe(number: Option<i64>) -> Self {
        number.map_or(Self::Nothing, Self::Number)
    }

    fn length(self) -> i64 {
        match self {
            Self::Bytes(bytes) => i64::try_from(bytes.len()).unwrap_or(i64::MAX),
            Self::Nothing | Self::Number(_) => -1,
        }
    }

    fn feed(self, hasher: &mut blake3::Hasher) {
        match self {
            Self::Nothing => hasher.update(&[0]),
            Self::Number(number) => {
                let mut bytes = [1; 9];
                bytes[1..].copy_from_slice(&number.to_le_bytes());
                hasher.update(&bytes)
            }
            Self::Bytes(content) => {
                let mut bytes = [2; 9];
                bytes[1..].copy_from_slice(&(content.len() as u64).to_le_bytes());
                hasher.update(&bytes).update(content)
            }
        };
    }

    fn show(self) -> String {
        match self {
            Self::Nothing => "-".into(),
            Self::Number(number) => number.to_string(),
            Self::Bytes(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) if text.chars().all(|character| !character.is_control()) => text.chars().take(200).collect(),
                Ok(_) | Err(_) => protocol::digest::hex(&bytes[..bytes.len().min(100)]),
            },
        }
    }
}

/// What of a row doesn't match its sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unsound {
    /// The content; the key is what was written.
    Content,
    /// The key, or what else is in the head.
    Head,
}

impl<'a> Parts<'a> {
    /// A pair and its length, as `state`, `record` and, with a time between, `answer` have them.
    pub(super) fn measured(table: Table, head: &[Part<'a>], value: &'a [u8]) -> Self {
        let mut head = head.to_vec();
        head.push(Part::Number(Part::Bytes(value).length()));
        Self { table, head, body: vec![Part::Bytes(value)] }
    }

    /// The same, where the content isn't read: only the head can be checked.
    pub(super) fn unread(table: Table, head: &[Part<'a>], length: i64) -> Self {
        let mut head = head.to_vec();
        head.push(Part::Number(length));
        Self { table, head, body: Vec::new() }
    }

    pub(super) fn of(table: Table, head: &[Part<'a>], body: &[Part<'a>]) -> Self {
        Self { table, head: head.to_vec(), body: body.to_vec() }
    }

    /// Of the log: an entry's content is held against the leaf, which is its hash; the sum says whether there is any.
    pub(super) fn of_log(position: i64, operation: &'a [u8], leaf: &'a [u8], has_content: bool) -> Self {
        let body = [Part::Bytes(operation), Part::Bytes(leaf), Part::Number(has_content.into())];
        Self::of(Table::Log, &[Part::Number(position)], &body)
    }

    /// All of a row that was read with [`Layout::columns`], and its sum.
    pub(super) fn read(table: Table, row: &'a Row<'_>) -> rusqlite::Result<(Self, Part<'a>)> {
        let layout = table.layout();
        let columns = (0..layout.count).map(|column| Part::of(row, column)).collect::<rusqlite::Result<Vec<_>>>()?;
        let (head, body) = columns.split_at(layout.head);
        let mut parts = Self::of(table, head, body);
        if layout.measured {
            parts.head.push(Part::Number(parts.body.last().map_or(-1, |value| value.length())));
        }
        if table == Table::Log
            && let Some(entry) = parts.body.last_mut()
        {
            *entry = Part::Number((entry.length() > 0).into());
        }
        Ok((parts, Part::of(row, layout.count)?))
    }

    /// The sum to write.
    pub(super) fn sum(&self) -> i64 {
        let (head, whole) = self.halves(&self.head);
        (i64::from(head) << 32) | i64::from(whole)
    }

    fn halves(&self, head: &[Part<'_>]) -> (u32, u32) {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&[self.table as u8]);
        head.iter().for_each(|part| part.feed(&mut hasher));
        let of_head = cut(&hasher);
        if self.body.is_empty() {
            return (of_head, of_head);
        }
        self.body.iter().for_each(|part| part.feed(&mut hasher));
        (of_head, cut(&hasher))
    }

    /// What doesn't match the sum that stands beside it.
    pub(super) fn unsound(&self, sum: Part<'_>) -> Option<Unsound> {
        let Part::Number(sum) = sum else { return Some(Unsound::Head) };
        let (head, whole) = self.halves(&self.head);
        match (head == (sum >> 32) as u32, whole == sum as u32) {
            (true, true) => None,
            (true, false) => Some(Unsound::Content),
            (false, _) => Some(Unsound::Head),
        }
    }

    /// Whether the head matches, where the content wasn't read.
    pub(super) fn unsound_head(&self, sum: i64) -> Option<Unsound> {
        let (head, _) = self.halves(&self.head);
        (head != (sum >> 32) as u32).then_some(Unsound::Head)
    }

    /// The row, for whoever has to be told that it is damaged.
    pub(super) fn damaged(&self, unsound: Unsound, sum: Part<'_>) -> DamagedRow {
        let Layout { name, key, .. } = self.table.layout();
        let shown = self.head[..key.min(self.head.len())].iter().map(|part| part.show()).collect::<Vec<_>>().join(" ");
        let original = match (unsound, sum) {
            (Unsound::Content, _) => Some(encode(&self.head[..key])),
            (Unsound::Head, Part::Number(sum)) => self.original(sum, key),
            (Unsound::Head, Part::Nothing | Part::Bytes(_)) => None,
        };
        DamagedRow { table: name, key: shown, content: unsound == Unsound::Content, original }
    }

    /// The key that was written, if it differs in one bit from what was read, or not at all.
    fn original(&self, sum: i64, key: usize) -> Option<Vec<u8>> {
        let (head, whole) = ((sum >> 32) as u32, sum as u32);
        let fits = |candidate: &[Part<'_>]| {
            let (of_head, of_whole) = self.halves(candidate);
            of_head == head && (self.body.is_empty() || of_whole == whole)
        };
        // The sum's own first half, if the second one says that all is as it was.
        if !self.body.is_empty() && self.halves(&self.head).1 == whole {
            return Some(encode(&self.head[..key]));
        }
        let mut found = None;
        for at in 0..self.head.len() {
            for changed in flipped(self.head[at]) {
                let mut candidate = self.head.clone();
                candidate[at] = changed.part();
                if fits(&candidate) && found.replace(encode(&candidate[..key])).is_some() {
                    return None;
                }
            }
        }
        found
    }
}

/// A value with one bit changed.
enum Changed {
    Number(i64),
    Bytes(Vec<u8>),
}

impl Changed {
    fn part(&self) -> Part<'_> {
        match self {
            Self::Number(number) => Part::Number(*number),
            Self::Bytes(bytes) => Part::Bytes(bytes),
        }
    }
}

fn flipped(part: Part<'_>) -> impl Iterator<Item = Changed> + '_ {
    // Keys are at most `MAX_NAME` long; longer ones are damage of another kind.
    let bits = match part {
        Part::Nothing => 0,
        Part::Number(_) => 64,
        Part::Bytes(bytes) => bytes.len().min(crate::commit::MAX_NAME) * 8,
    };
    (0..bits).map(move |bit| match part {
        Part::Bytes(bytes) => {
            let mut changed = bytes.to_vec();
            changed[bit / 8] ^= 1 << (bit % 8);
            Changed::Bytes(changed)
        }
        Part::Number(number) => Changed::Number(number ^ (1 << bit)),
        Part::Nothing => Changed::Number(0),
    })
}

fn cut(hasher: &blake3::Hasher) -> u32 {
    let hash = hasher.finalize();
    let bytes = hash.as_bytes();
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

/// A key in one piece: each part with its length before it.
pub(super) fn encode(key: &[Part<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in key {
        match part {
            Part::Nothing => bytes.push(0),
            Part::Number(number) => {
                bytes.push(1);
                bytes.extend(number.to_le_bytes());
            }
            Part::Bytes(content) => {
                bytes.push(2);
                bytes.extend((content.len() as u64).to_le_bytes());
                bytes.extend(*content);
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state<'a>(key: &'a str, value: &'a [u8]) -> Parts<'a> {
        Parts::measured(Table::State, &[Part::Bytes(b"agent"), Part::Bytes(key.as_bytes())], value)
    }

    #[test]
    fn any_bit_that_changes_shows_and_a_key_is_found_again() {
        let sum = state("key", b"value").sum();
        assert_eq!(state("key", b"value").unsound(Part::Number(sum)), None);
        assert_eq!(state("key", b"walue").unsound(Part::Number(sum)), Some(Unsound::Content));
        assert_eq!(state("key", b"valu").unsound(Part::Number(sum)), Some(Unsound::Head), "lengths belong to the head");
        assert_eq!(state("key", b"").unsound(Part::Number(sum)), Some(Unsound::Head));
        let other = Parts { table: Table::Record, ..state("key", b"value") };
        assert_eq!(other.unsound(Part::Number(sum)), Some(Unsound::Head), "tables are apart");
        assert_eq!(state("key", b"value").unsound(Part::Nothing), Some(Unsound::Head));
        let key = Some(encode(&[Part::Bytes(b"agent"), Part::Bytes(b"key")]));
        for bit in 0..64 {
            let sum = sum ^ (1 << bit);
            let unsound = state("key", b"value").unsound(Part::Number(sum)).expect("damage");
            let row = state("key", b"value").damaged(unsound, Part::Number(sum));
            assert_eq!(row.original, key, "bit {bit} of the sum");
        }
        for bit in 0..24 {
            let mut changed = *b"key";
            changed[bit / 8] ^= 1 << (bit % 8);
            let head = [Part::Bytes(b"agent"), Part::Bytes(&changed)];
            let found = Parts::measured(Table::State, &head, b"value");
            let unsound = found.unsound(Part::Number(sum)).expect("damage");
            assert_eq!(found.damaged(unsound, Part::Number(sum)).original, key, "bit {bit}");
            // Where only keys are listed.
            let found = Parts::unread(Table::State, &head, 5);
            assert_eq!(found.unsound_head(sum), Some(Unsound::Head));
            assert_eq!(found.damaged(Unsound::Head, Part::Number(sum)).original, key);
        }
        // Under another key altogether nobody knows what it was.
        let swapped = state("other", b"value").damaged(Unsound::Head, Part::Number(sum));
        assert_eq!((swapped.original, swapped.key.as_str()), (None, "agent other"));
    }
}
