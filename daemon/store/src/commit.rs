//! What is written: one [`Commit`] for each operation, and how it comes out.

use protocol::{AgentId, AgreementId, Code, OperationId, Usage, merkle::Hash, wire};

/// The longest key, record id, bucket name, or scope and key of an answer, in bytes: what every backend can index.
pub const MAX_NAME: usize = 1024;
/// The largest value, record, answer or entry: an answer is at most what a frame holds.
pub const MAX_VALUE: usize = wire::MAX_FRAME;

/// One durable unit: all of it or nothing. Its parts are optional.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Commit {
    /// Deletes all state of an agent, before anything is written.
    pub clear_state: Option<AgentId>,
    /// Writes to an agent's state.
    pub state: Option<StateWrites>,
    /// Buckets deleted before the charge: windows that are over for good.
    pub retire: Vec<(AgreementId, String)>,
    /// What is kept of the changes of an agent's state; what this commit itself writes comes before.
    pub tracking: Option<Tracking>,
    /// Usage under an agreement, within its limits.
    pub charge: Option<Charge>,
    /// Records put or deleted, in order.
    pub records: Vec<RecordWrite>,
    /// The answer to give to whoever repeats this request.
    pub answer: Option<Answer>,
    /// Appended to the trace log; its index is assigned here.
    pub entry: Option<Append>,
    /// Completed subtrees of the trace log's Merkle tree.
    pub nodes: Vec<TreeNode>,
    /// Entries of the trace log that lose their content, by their indices: all else of them stays.
    pub prune: Vec<u64>,
}

/// Writes to an agent's state, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateWrites {
    /// The agent.
    pub agent: AgentId,
    /// The writes.
    pub writes: Vec<Write>,
    /// The most that may be there after them, if there is a limit. Writes that leave no more than there was are never refused.
    pub quota: Option<Held>,
}

/// What is kept of the changes of an agent's state, so that whoever takes a part of it again and again reads what changed,
/// not what there is.
///
/// ```text
/// Mark ─► mark 7 ─► view ─► all of the state … taken ─► Base { mark: 7, note }
///                                                          │ changes after mark 7 are kept: View::changed
/// Mark ─► mark 8 ─► view ─► note, changes … taken ─────► Base { mark: 8, note }
/// ```
/// One that fails between mark and base changes nothing. Where more has changed than is worth it
/// ([`Held::changes_kept`]), or the state is cleared, all of it ends: base, changes, marks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tracking {
    /// A new mark. From the first one on changes are kept; of an agent that never had a state there is nothing to keep.
    Mark(AgentId),
    /// What a view held that was opened after a mark is what `note` tells of: changes before that mark are forgotten. Nothing
    /// happens if changes since the mark aren't all there.
    Base {
        /// The agent.
        agent: AgentId,
        /// The mark.
        mark: u64,
        /// Whatever the caller wants to know of the state.
        note: Vec<u8>,
    },
    /// Changes are kept no more.
    End(AgentId),
}

/// The most changes that are kept of one state.
const MAX_CHANGES: u64 = 65_536;
/// So many are, however small it is.
const MIN_CHANGES: u64 = 1_024;

/// How much an agent's state is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held {
    /// Keys.
    pub keys: u64,
    /// Bytes of keys and values.
    pub bytes: u64,
}

impl Held {
    /// How many changes are kept of such a state: a quarter of its keys. With more, to read all of it takes hardly longer.
    pub fn changes_kept(&self) -> u64 {
        (MIN_CHANGES + self.keys / 4).min(MAX_CHANGES)
    }

    /// Refuses a state that would pass its quota by growing.
    pub fn check(before: Self, after: Self, quota: Option<Self>) -> Result<(), Rejected> {
        let Some(quota) = quota else { return Ok(()) };
        let passed = |before: u64, after: u64, quota: u64| after > quota && after > before;
        match passed(before.keys, after.keys, quota.keys) || passed(before.bytes, after.bytes, quota.bytes) {
            true => Err(Rejected::StateFull { after, quota }),
            false => Ok(()),
        }
    }
}

/// Sets a key, or deletes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// The key.
    pub key: String,
    /// Its value; none deletes it.
    pub value: Option<Vec<u8>>,
}

/// Adds usage to every bucket of an agreement that it falls into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Charge {
    /// The agreement.
    pub agreement: AgreementId,
    /// What was used. Sums saturate at 2⁶³ - 1.
    pub usage: Usage,
    /// Where it counts.
    pub buckets: Vec<Bucket>,
}

/// The bucket to which a charge adds what it used beyond a limit of any other, of each quantity where it is the most.
pub const OVERAGE: &str = "overage";

/// A sum of usage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket {
    /// Its name: `total`, `1d:20415`.
    pub name: String,
    /// What passes it is overage.
    pub limit: Usage,
    /// The most that may be in it: no quantity ever passes its cap.
    pub cap: Usage,
}

impl Bucket {
    /// One without limit or cap.
    pub fn unlimited(name: impl Into<String>) -> Self {
        Self { name: name.into(), limit: Usage::UNLIMITED, cap: Usage::UNLIMITED }
    }
}

/// Puts a record, or deletes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordWrite {
    /// The kind.
    pub kind: Kind,
    /// The id, unique within its kind.
    pub id: String,
    /// The record; none deletes it.
    pub value: Option<Vec<u8>>,
}

/// Remembers what was answered, so that the same request happens once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Whose key it is; keys of different scopes never meet.
    pub scope: String,
    /// The idempotency key.
    pub key: String,
    /// The answer.
    pub value: Vec<u8>,
    /// Now, in Unix seconds: an answer that has expired by then is overwritten.
    pub now_s: i64,
    /// When it may be forgotten, in Unix seconds.
    pub expires_s: i64,
}

/// Appends to the trace log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Append {
    /// The operation; it has one entry at most.
    pub operation: OperationId,
    /// The entry's leaf hash.
    pub leaf: Hash,
    /// The entry, byte for byte.
    pub entry: Vec<u8>,
}

/// A completed subtree of the trace log's Merkle tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TreeNode {
    /// Its height: it covers 2^level leaves.
    pub level: u8,
    /// Its position among those of its level.
    pub index: u64,
    /// Its hash.
    pub hash: Hash,
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $text:literal;)*) => {
        /// What a record is. Small documents that are found by kind and id.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Kind {
            $($(#[$doc])* $name,)*
        }

        impl Kind {
            /// Every kind.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// Its number on disk.
            pub fn number(self) -> u8 {
                match self { $(Self::$name => $number),* }
            }

            /// Its name on disk, for backends that name things.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text),* }
            }
        }
    };
}

// On disk for decades: add at the end, never renumber, never rename.
kinds! {
    /// An agent.
    Agent = 1, "agent";
    /// An installed plugin.
    Plugin = 2, "plugin";
    /// A publisher that the operator trusts.
    Publisher = 3, "publisher";
    /// An agreement.
    Agreement = 4, "agreement";
    /// A signed transition of an agreement.
    Transition = 5, "transition";
    /// The newest receipt of an agreement.
    Receipt = 6, "receipt";
    /// An API key, hashed.
    ApiKey = 7, "api_key";
    /// A peer known from before.
    Peer = 8, "peer";
    /// A signed checkpoint of ours.
    Checkpoint = 9, "checkpoint";
    /// A signed advert.
    Advert = 10, "advert";
    /// What a node remembers about itself.
    Meta = 11, "meta";
    /// A member, in the records of the mesh's authority.
    Member = 12, "member";
    /// A join token, in the records of the mesh's authority.
    Token = 13, "token";
    /// A signed snapshot of an agent, by agent and snapshot.
    Snapshot = 14, "snapshot";
    /// State that is being written for an agent and isn't its state yet.
    Staged = 15, "staged";
    /// An agent of another node, of which snapshots are held here.
    Held = 16, "held";
    /// Where an agent is that isn't here.
    Whereabouts = 17, "whereabouts";
    /// A component that the operator revoked.
    Revocation = 18, "revocation";
    /// A template that the operator brought.
    Template = 19, "template";
    /// Proposals that the operator accepts beforehand.
    AutoAccept = 20, "auto_accept";
    /// A webhook, with how far it is.
    Webhook = 21, "webhook";
    /// Events that a webhook was not told, by webhook and index.
    DeadLetter = 22, "dead_letter";
    /// What the newest receipt of an agreement says beside its totals, written with the charge.
    Charged = 23, "charged";
    /// What is remembered of another node's trace, and what speaks against it.
    Witnessed = 24, "witnessed";
    /// A step of an agreement that the other party has still to be told of.
    Untold = 25, "untold";
    /// How an agreement came to its end.
    Closing = 26, "closing";
    /// By which keys another owner has followed its first one.
    Lineage = 29, "lineage";
    /// That an agreement was made without the operator, by which rule, and what of it counts against that rule's budget.
    Accepted = 40, "accepted";
}

/// How a commit came out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Committed {
    /// The index of its entry in the trace log.
    pub index: Option<u64>,
    /// What is in the charge's first bucket after it.
    pub total: Option<Usage>,
    /// What of all that was charged was overage, this charge included.
    pub overage: Option<Usage>,
}

/// Why a commit was not made. Nothing of it was; the others of its group were.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// A bucket would pass its cap.
    #[error("a limit of agreement {agreement} would be passed ({bucket})")]
    OverLimit {
        /// The agreement.
        agreement: AgreementId,
        /// The bucket.
        bucket: String,
    },
    /// The idempotency key was answered before: give that answer.
    #[error("a request with this idempotency key was answered before")]
    Duplicate,
    /// The agent's state would pass its quota.
    #[error("the state would be {} keys and {} bytes, its quota is {} and {}", after.keys, after.bytes, quota.keys, quota.bytes)]
    StateFull {
        /// What it would be.
        after: Held,
        /// What it may be.
        quota: Held,
    },
    /// The operation is in the trace log.
    #[error("operation {operation} is in the trace log already")]
    Logged {
        /// The operation.
        operation: OperationId,
    },
    /// Something is larger than a store takes.
    #[error("{what} has {bytes} bytes, a store takes {limit}")]
    TooLarge {
        /// What it is.
        what: &'static str,
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
}

impl Rejected {
    /// Its stable code.
    pub fn code(&self) -> Code {
        match self {
            Self::OverLimit { .. } => Code::AgreementExhausted,
            Self::Duplicate | Self::Logged { .. } => Code::Conflict,
            Self::StateFull { .. } => Code::StateQuota,
            Self::TooLarge { .. } => Code::TooLarge,
        }
    }
}

impl Commit {
    /// Refuses what a store doesn't take, before anything is written. Every backend calls it.
    pub fn check(&self) -> Result<(), Rejected> {
        for (what, bytes) in self.names() {
            within(what, bytes, MAX_NAME)?;
        }
        for (what, bytes) in self.values() {
            within(what, bytes, MAX_VALUE)?;
        }
        Ok(())
    }

    /// About how many bytes it holds in memory.
    pub fn size(&self) -> usize {
        size_of::<Self>()
            + self.names().chain(self.values()).map(|(_, bytes)| bytes + 32).sum::<usize>()
            + self.nodes.len() * 48
            + self.prune.len() * 8
    }

    fn names(&self) -> impl Iterator<Item = (&'static str, usize)> {
        let state = self.state.iter().flat_map(|state| &state.writes).map(|write| ("a key", write.key.len()));
        let records = self.records.iter().map(|record| ("a record's id", record.id.len()));
        let buckets = self.charge.iter().flat_map(|charge| &charge.buckets).map(|bucket| ("a bucket's name", bucket.name.len()));
        let retired = self.retire.iter().map(|(_, bucket)| ("a bucket's name", bucket.len()));
        let answer = self.answer.iter().map(|answer| ("an idempotency key", answer.scope.len() + answer.key.len()));
        state.chain(records).chain(buckets).chain(retired).chain(answer)
    }

    fn values(&self) -> impl Iterator<Item = (&'static str, usize)> {
        let length = |value: &Option<Vec<u8>>| value.as_ref().map_or(0, Vec::len);
        let state = self.state.iter().flat_map(|state| &state.writes).map(move |write| ("a value", length(&write.value)));
        let records = self.records.iter().map(move |record| ("a record", length(&record.value)));
        let answer = self.answer.iter().map(|answer| ("an answer", answer.value.len()));
        let entry = self.entry.iter().map(|append| ("a trace entry", append.entry.len()));
        let note = self.tracking.iter().filter_map(|tracking| match tracking {
            Tracking::Base { note, .. } => Some(("a base's note", note.len())),
            Tracking::Mark(_) | Tracking::End(_) => None,
        });
        state.chain(records).chain(answer).chain(entry).chain(note)
    }
}

fn within(what: &'static str, bytes: usize, limit: usize) -> Result<(), Rejected> {
    if bytes <= limit { Ok(()) } else { Err(Rejected::TooLarge { what, bytes, limit }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_distinct_on_disk() {
        for (i, kind) in Kind::ALL.iter().enumerate() {
            assert!(Kind::ALL[..i].iter().all(|other| other.number() != kind.number() && other.as_str() != kind.as_str()));
        }
    }

    #[test]
    fn sizes_count_what_is_held() {
        let records = vec![RecordWrite { kind: Kind::Meta, id: "x".into(), value: Some(vec![0; 10_000]) }];
        let commit = Commit { records, ..Commit::default() };
        assert!((10_000..11_000).contains(&commit.size()), "{}", commit.size());
    }
}
