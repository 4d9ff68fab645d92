//! Whose an agent is, and whose a node is: what an advert shows so that nobody can offer what belongs to another.
//!
//! ```text
//! owner's name ─┐
//! time, salt ───┴─ SHA-256 ─> agent's id       anyone with the salt verifies whose id it is
//! owner ── signs ─> Ownership: node            anyone verifies whose node it is
//! ```
//! An advert whose owner signed for its node, and which offers an agent with the salt of its id, proves its claim to the
//! agent. To claim another's agent one would have to find a salt or a key of one's own whose digest agrees in 74 bits.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::{
    Timestamp,
    digest::{hex, unhex},
    document::{Document, Header},
    error::{Code, Problem},
    id::AgentId,
    key::{Did, NodeId},
};

/// For how long a node's ownership is signed, in seconds. It is renewed at half of that, so that an owner's key may be away
/// for half a day; and a retired key's last signature is worth nothing after a day.
pub const OWNERSHIP_SECONDS: i64 = 24 * 3600;
/// What separates this use of SHA-256 from others.
const CONTEXT: &[u8] = b"mcp-zero agent id v1\0";

/// What an agent's id is made of beside its owner and the time. Not secret: it keeps apart ids of one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IdSalt([u8; 8]);

impl IdSalt {
    /// A new one.
    ///
    /// # Errors
    /// The operating system gives no random bytes.
    pub fn random() -> Result<Self, Problem> {
        let bytes = getrandom::u64().map_err(|error| Problem::new(Code::Internal, format!("no random bytes for an id: {error}")))?;
        Ok(Self(bytes.to_be_bytes()))
    }

    /// The id of an agent that `owner` makes at a time.
    pub fn agent(self, owner: Did, at: Timestamp) -> AgentId {
        AgentId::from_uuid(self.uuid(owner, u64::try_from(at.as_millisecond()).unwrap_or_default()))
    }

    /// Whether `owner` made the agent of this id with this salt.
    pub fn proves(self, agent: &AgentId, owner: Did) -> bool {
        let bytes = agent.uuid().into_bytes();
        let milliseconds = bytes[..6].iter().fold(0, |time, byte| time << 8 | u64::from(*byte));
        self.uuid(owner, milliseconds) == agent.uuid()
    }

    /// A UUIDv7 (RFC 9562, section 5.7) whose random bits are a digest's.
    fn uuid(self, owner: Did, milliseconds: u64) -> Uuid {
        let mut hash = Sha256::new();
        for part in [CONTEXT, owner.as_bytes(), &milliseconds.to_be_bytes(), &self.0] {
            hash.update(part);
        }
        let digest: [u8; 32] = hash.finalize().into();
        let random = digest.first_chunk().expect("32 bytes hold 10");
        uuid::Builder::from_unix_timestamp_millis(milliseconds, random).into_uuid()
    }
}

impl From<IdSalt> for String {
    fn from(IdSalt(bytes): IdSalt) -> Self {
        hex(&bytes)
    }
}

impl TryFrom<String> for IdSalt {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        unhex(&text).map(Self).ok_or("a salt is 16 hexadecimal digits")
    }
}

/// That a node is an owner's. Signed by the owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ownership {
    /// Type, version, mesh, validity.
    pub header: Header,
    /// The node.
    pub node: NodeId,
    /// Whose it is.
    pub owner: Did,
}

impl Document for Ownership {
    const TYPE: &'static str = "ownership";
    const VERSION: u32 = 1;

    fn header(&self) -> &Header {
        &self.header
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Key;

    #[test]
    fn an_id_is_its_owners_and_nobody_elses() {
        let (owner, other, now) = (Key::generate().did(), Key::generate().did(), Timestamp::now());
        let (salt, another) = (IdSalt::random().expect("random"), IdSalt::random().expect("random"));
        let agent = salt.agent(owner, now);
        assert_eq!(agent.uuid().get_version_num(), 7);
        assert!(salt.proves(&agent, owner));
        assert!(!salt.proves(&agent, other) && !another.proves(&agent, owner) && !salt.proves(&AgentId::new(), owner));
        let mut changed = agent.uuid().into_bytes();
        for byte in [0, 5, 7, 9, 15] {
            changed[byte] ^= 1;
            assert!(!salt.proves(&AgentId::from_uuid(Uuid::from_bytes(changed)), owner), "byte {byte}");
            changed[byte] ^= 1;
        }
        assert!(salt.agent(owner, Timestamp::UNIX_EPOCH) < agent, "ids are in the order of their time");
    }

    #[test]
    fn a_salt_is_sixteen_digits() {
        let salt = IdSalt([0, 1, 2, 3, 4, 5, 6, 0xff]);
        let text = serde_json::to_string(&salt).expect("text");
        assert_eq!((text.as_str(), serde_json::from_str(&text).ok()), ("\"00010203040506ff\"", Some(salt)));
        for bad in ["\"00010203040506f\"", "\"00010203040506fff\"", "\"00010203040506fg\"", "1"] {
            assert!(serde_json::from_str::<IdSalt>(bad).is_err(), "{bad}");
        }
    }
}
