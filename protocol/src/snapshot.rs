//! Snapshots: an agent's state at one moment, cut by its content into chunks, and signed.
//!
//! ```text
//! state in the order of its keys -> stream of pairs -> chunks (blobs) -> index (a blob) -> Snapshot, signed by the owner
//! ```
//! Two snapshots share the chunks of what didn't change between them.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::{
    agreement::Pricing,
    api::Limits,
    digest::Digest,
    document::{Document, Header},
    id::{AgentId, SnapshotId},
    key::{Did, NodeId},
};

/// A chunk has between these many bytes, and this many on average.
pub const MIN_CHUNK: usize = 16 * 1024;
/// See [`MIN_CHUNK`].
pub const AVERAGE_CHUNK: usize = 64 * 1024;
/// See [`MIN_CHUNK`].
pub const MAX_CHUNK: usize = 256 * 1024;
/// Chunks of one snapshot: 64 GiB of state.
pub const MAX_CHUNKS: usize = 1 << 20;
/// Plugins of one agent.
pub const MAX_PLUGINS: usize = 16;

/// A statement about an agent's state. Bound to no mesh: an agent may be taken elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Type, version, mesh `*`, validity. It was taken when it was issued.
    pub header: Header,
    /// Its own name.
    pub id: SnapshotId,
    /// The agent.
    pub agent: AgentId,
    /// The agent's name.
    pub name: String,
    /// Who owns the agent, and signs.
    pub owner: Did,
    /// Where it was taken.
    pub node: NodeId,
    /// How often the agent had changed its home.
    #[serde(default)]
    pub epoch: u64,
    /// The plugins that the agent ran.
    pub plugins: Vec<Ran>,
    /// What calls cost.
    pub pricing: Pricing,
    /// What one call may use.
    pub limits: Limits,
    /// Keys of the state.
    pub keys: u64,
    /// Bytes of keys and values.
    pub bytes: u64,
    /// The BLAKE3 digest of the [`Index`].
    pub index: Digest,
}

/// A plugin that an agent ran.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ran {
    /// The plugin, `name@release`.
    pub plugin: String,
    /// The component.
    pub component: Digest,
}

impl Document for Snapshot {
    const TYPE: &'static str = "snapshot";
    const VERSION: u32 = 1;
    const ANY_MESH: bool = true;

    fn header(&self) -> &Header {
        &self.header
    }
}

/// The chunks of a snapshot, in order: BLAKE3 digest (32 bytes) and size (u32 BE) of each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Index(pub Vec<(Digest, u32)>);

/// Bytes that aren't what they should be.
#[derive(Debug, thiserror::Error)]
#[error("the snapshot is malformed: {0}")]
pub struct Malformed(&'static str);

const ENTRY: usize = 32 + 4;

impl Index {
    /// As bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.0.len() * ENTRY);
        for (digest, size) in &self.0 {
            bytes.put_slice(digest.as_bytes());
            bytes.put_u32(*size);
        }
        bytes
    }

    /// From bytes.
    ///
    /// # Errors
    /// They are cut, too many, or name chunks of impossible sizes.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let (entries, rest) = bytes.as_chunks::<ENTRY>();
        if !rest.is_empty() || entries.len() > MAX_CHUNKS {
            return Err(Malformed("its index is cut, or too long"));
        }
        let entry = |entry: &[u8; ENTRY]| {
            let (digest, mut size) = entry.split_at(32);
            let size = size.get_u32();
            let digest = Digest::Blake3(digest.try_into().expect("32 bytes"));
            (1..=MAX_CHUNK as u32).contains(&size).then_some((digest, size)).ok_or(Malformed("a chunk has an impossible size"))
        };
        entries.iter().map(entry).collect::<Result<_, _>>().map(Self)
    }
}

/// Appends a pair to the stream: lengths of key and value (u32 BE each), key, value.
pub fn put_pair(stream: &mut BytesMut, key: &str, value: &[u8]) {
    stream.put_u32(u32::try_from(key.len()).expect("keys have at most 1 KiB"));
    stream.put_u32(u32::try_from(value.len()).expect("values are far below 4 GiB"));
    stream.put_slice(key.as_bytes());
    stream.put_slice(value);
}

/// Takes the next whole pair off the front of `stream`; `limits` are the most bytes of key and value.
///
/// # Errors
/// The bytes are no pair.
pub fn take_pair(stream: &mut BytesMut, limits: (usize, usize)) -> Result<Option<(String, Bytes)>, Malformed> {
    let Some((lengths, _)) = stream.split_first_chunk::<8>() else { return Ok(None) };
    let mut lengths = &lengths[..];
    let (key, value) = (lengths.get_u32() as usize, lengths.get_u32() as usize);
    if key > limits.0 || value > limits.1 {
        return Err(Malformed("a key or a value is too long"));
    }
    if stream.len() < 8 + key + value {
        return Ok(None);
    }
    stream.advance(8);
    let key = String::from_utf8(stream.split_to(key).to_vec()).map_err(|_| Malformed("a key is not UTF-8"))?;
    Ok(Some((key, stream.split_to(value).freeze())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_and_indexes_come_back_and_nothing_else_passes() {
        let mut stream = BytesMut::new();
        let pairs = [("", &b""[..]), ("a", b"1"), ("é", &[7; 5_000])];
        pairs.iter().for_each(|(key, value)| put_pair(&mut stream, key, value));
        let whole = stream.clone();
        let mut cut = BytesMut::from(&whole[..whole.len() - 1]);
        let read = |stream: &mut BytesMut| std::iter::from_fn(|| take_pair(stream, (100, 5_000)).expect("pairs")).count();
        assert_eq!((read(&mut stream), read(&mut cut)), (3, 2));
        assert!(stream.is_empty() && !cut.is_empty());
        assert!(take_pair(&mut whole.clone(), (100, 4_999)).is_ok(), "the first are short");
        assert!(take_pair(&mut BytesMut::from(&[0xff; 20][..]), (100, 5_000)).is_err());
        assert!(take_pair(&mut BytesMut::from(&[0, 0, 0, 1, 0, 0, 0, 0, 0xff][..]), (100, 5_000)).is_err());

        let index = Index(vec![(Digest::blake3(b"a"), 1), (Digest::blake3(b"b"), MAX_CHUNK as u32)]);
        let bytes = index.encode();
        assert_eq!(Index::decode(&bytes).expect("its own"), index);
        assert!(Index::decode(&bytes[1..]).is_err());
        assert!(Index::decode(&[0; ENTRY]).is_err(), "no bytes are no chunk");
        assert!(Index::decode(&[0xff; ENTRY]).is_err());
    }
}
