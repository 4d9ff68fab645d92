//! Identifiers: TypeIDs (a UUIDv7 with a typed prefix, <https://github.com/jetify-com/typeid>) and the mesh id.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use type_safe_id::{StaticType, TypeSafeId};

use crate::{digest, key::Did};

macro_rules! typed_id {
    ($(#[$doc:meta])* $alias:ident, $tag:ident, $prefix:literal) => {
        #[doc = concat!("Marks the TypeID prefix `", $prefix, "`.")]
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $tag;
        impl StaticType for $tag {
            const TYPE: &'static str = $prefix;
        }
        $(#[$doc])*
        pub type $alias = TypeSafeId<$tag>;
    };
}

typed_id!(
    /// Names an agent, wherever in the mesh it lives: `agent_01h…`.
    AgentId,
    AgentTag,
    "agent"
);
typed_id!(
    /// Names an agreement between a provider and a consumer: `agreement_01h…`.
    AgreementId,
    AgreementTag,
    "agreement"
);
typed_id!(
    /// Names a plugin known to a node: `plugin_01h…`.
    PluginId,
    PluginTag,
    "plugin"
);
typed_id!(
    /// Names one executed operation, and so its trace entry and its receipt: `op_01h…`.
    OperationId,
    OperationTag,
    "op"
);
typed_id!(
    /// Names an API key: `key_01h…`.
    KeyId,
    KeyTag,
    "key"
);

typed_id!(
    /// Names a webhook: `webhook_01h…`.
    WebhookId,
    WebhookTag,
    "webhook"
);

typed_id!(
    /// Names a credential: `credential_01h…`.
    CredentialId,
    CredentialTag,
    "credential"
);
typed_id!(
    /// Names a join token: `token_01h…`.
    TokenId,
    TokenTag,
    "token"
);
typed_id!(
    /// Names a snapshot of an agent: `snapshot_01h…`.
    SnapshotId,
    SnapshotTag,
    "snapshot"
);

/// Names a mesh. It is part of every protocol name and of every signed document, so that nothing made for one mesh
/// is accepted in another. 1 to 64 characters of `a-z 0-9 - .`; the single `*` stands for every mesh and is accepted
/// only in documents that are bound to none (plugin manifests).
///
/// An id of 64 hexadecimal digits is the Ed25519 key of the mesh's authority: such a mesh is private, and whoever knows
/// its id can verify who is a member. Any other id names an open mesh, which admits everyone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MeshId(String);

/// A mesh id that isn't 1 to 64 characters of `a-z 0-9 - .`.
#[derive(Debug, thiserror::Error)]
#[error("mesh id {0:?} is not 1 to 64 characters of a-z, 0-9, '-' and '.'")]
pub struct InvalidMeshId(String);

impl MeshId {
    /// Every mesh: for documents that are bound to none.
    pub fn any() -> Self {
        Self("*".into())
    }

    /// The private mesh of an authority.
    pub fn of(authority: Did) -> Self {
        Self(digest::hex(authority.as_bytes()))
    }

    /// The authority that says who is a member; `None` for an open mesh.
    pub fn authority(&self) -> Option<Did> {
        digest::unhex32(&self.0).and_then(|key| Did::from_bytes(&key).ok())
    }

    /// What a node that is in no mesh writes where a mesh is named: into its own trace.
    pub fn none() -> Self {
        Self("none".into())
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for MeshId {
    type Err = InvalidMeshId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
        if text == "*" || (1..=64).contains(&text.len()) && text.bytes().all(plain) {
            Ok(Self(text.into()))
        } else {
            Err(InvalidMeshId(text.chars().take(80).collect()))
        }
    }
}

impl TryFrom<String> for MeshId {
    type Error = InvalidMeshId;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<MeshId> for String {
    fn from(id: MeshId) -> Self {
        id.0
    }
}

impl fmt::Display for MeshId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typed_ids_refuse_another_type() {
        let agent = AgentId::new();
        assert!(agent.to_string().starts_with("agent_"));
        assert_eq!(agent.to_string().parse::<AgentId>().expect("own text"), agent);
        assert!(agent.to_string().parse::<AgreementId>().is_err());
    }

    #[test]
    fn mesh_ids_are_bounded() {
        let open: MeshId = "devstack-1".parse().expect("a name");
        assert_eq!(open.authority(), None);
        let authority = crate::Key::generate().did();
        let private: MeshId = MeshId::of(authority).as_str().parse().expect("64 digits");
        assert_eq!(private.authority(), Some(authority));
        for bad in ["", "Upper", "a b", &"x".repeat(65)] {
            assert!(bad.parse::<MeshId>().is_err(), "{bad:?}");
        }
    }
}
