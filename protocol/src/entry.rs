//! Trace entries: one for each operation. The exact bytes are what the log hashes.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    digest::Digest,
    error::Code,
    id::{AgentId, AgreementId, MeshId, OperationId},
    key::{Did, NodeId},
    merkle::{self, Hash},
    usage::Usage,
};

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "action")]
pub enum Action {
    /// An agent ran a method on this node.
    Execute {
        /// The agent.
        agent: AgentId,
        /// The method.
        method: String,
        /// SHA-256 of the parameters' bytes.
        params: Digest,
        /// SHA-256 of the result's bytes; none where it failed.
        #[serde(skip_serializing_if = "Option::is_none")]
        result: Option<Digest>,
        /// What it used.
        usage: Usage,
    },
    /// This node's owner ran a method on another node; the receipt proves it.
    ExecuteRemote {
        /// The other node.
        node: NodeId,
        /// The agent.
        agent: AgentId,
        /// The method.
        method: String,
        /// SHA-256 of the receipt's payload; none where the call failed without one.
        #[serde(skip_serializing_if = "Option::is_none")]
        receipt: Option<Digest>,
    },
    /// An agent was spawned from a component.
    Spawn {
        /// The agent.
        agent: AgentId,
        /// The component.
        component: Digest,
    },
    /// An agent was terminated, and its state deleted.
    Terminate {
        /// The agent.
        agent: AgentId,
    },
    /// An agent's state was kept, signed.
    Snapshot {
        /// The agent.
        agent: AgentId,
        /// The snapshot.
        snapshot: crate::id::SnapshotId,
        /// SHA-256 of its payload.
        digest: Digest,
    },
    /// An agent's state became that of a snapshot.
    Recover {
        /// The agent.
        agent: AgentId,
        /// The snapshot.
        snapshot: crate::id::SnapshotId,
    },
    /// An agent was made of a snapshot, from here or elsewhere.
    Import {
        /// The new agent.
        agent: AgentId,
        /// The snapshot.
        snapshot: crate::id::SnapshotId,
        /// The agent that it was taken of.
        from: AgentId,
    },
    /// An agent became another release of its plugin.
    Upgrade {
        /// The agent.
        agent: AgentId,
        /// The component that it ran.
        from: Digest,
        /// The component that it runs.
        to: Digest,
    },
    /// An agent was given another plugin.
    Attach {
        /// The agent.
        agent: AgentId,
        /// The component.
        component: Digest,
    },
    /// A plugin was taken from an agent.
    Detach {
        /// The agent.
        agent: AgentId,
        /// The component.
        component: Digest,
    },
    /// An agent's snapshots are held by so many other nodes from now on.
    Replicas {
        /// The agent.
        agent: AgentId,
        /// How many.
        replicas: u32,
    },
    /// An agent left for another node.
    Move {
        /// The agent.
        agent: AgentId,
        /// Its home from then on.
        to: NodeId,
        /// Its epoch there.
        epoch: u64,
    },
    /// An agent came from another node.
    Adopt {
        /// The agent.
        agent: AgentId,
        /// Its home until then.
        from: NodeId,
        /// Its epoch here.
        epoch: u64,
    },
    /// An agent whose home was lost goes on here, from a snapshot.
    Restore {
        /// The agent.
        agent: AgentId,
        /// The snapshot.
        snapshot: crate::id::SnapshotId,
        /// Its epoch here.
        epoch: u64,
    },
    /// An agent's owner stopped it.
    Stop {
        /// The agent.
        agent: AgentId,
    },
    /// An agent's owner started it again.
    Start {
        /// The agent.
        agent: AgentId,
    },
    /// Snapshots of an agent are taken by the clock from now on, or no longer.
    Schedule {
        /// The agent.
        agent: AgentId,
        /// Seconds between two; none for no longer.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        every_s: Option<u64>,
        /// How many are kept.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        keep: Option<u32>,
    },
    /// The node's operator revoked a component: it isn't run here any more.
    Revoke {
        /// The component.
        component: Digest,
        /// Why, as the operator says.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// The node's operator took a revocation back.
    Unrevoke {
        /// The component.
        component: Digest,
    },
    /// Proposals within a template are accepted beforehand from now on, or no longer.
    AutoAccept {
        /// The template.
        template: String,
        /// Whose proposals.
        #[serde(rename = "for")]
        whose: crate::api::Whose,
        /// Whether they are.
        accepted: bool,
        /// How much of it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        budget: Option<crate::api::Budget>,
    },
    /// The node's operator brought a template, or took it away.
    Template {
        /// Its name.
        template: String,
        /// SHA-256 of it as JSON; none where it was taken away.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        digest: Option<Digest>,
    },
    /// The trace is posted to an address from now on, or no longer.
    Webhook {
        /// The webhook.
        webhook: crate::id::WebhookId,
        /// The host of its address; none where it was removed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host: Option<String>,
    },
    /// The owner's key is kept in another way than before, or is another one.
    Key {
        /// The owner.
        owner: Did,
        /// How the key is kept from now on.
        kept: crate::api::KeyKept,
    },
    /// The owner signs by another key from now on.
    KeyRotated {
        /// The key before.
        from: Did,
        /// The key from now on.
        to: Did,
    },
    /// An agreement reached a status.
    Agreement {
        /// The status reached.
        status: crate::agreement::Status,
    },
    /// The mesh's authority admitted a member, prolonged its membership, or ended it.
    Member {
        /// The member.
        node: NodeId,
        /// Where it stands from now on.
        standing: crate::credential::Standing,
        /// The credential that was issued, if one was.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        credential: Option<crate::id::CredentialId>,
    },
    /// The mesh's authority made a join token, or took it back.
    Token {
        /// The token.
        token: crate::id::TokenId,
        /// How many nodes may enter by it; 0 for one that was taken back.
        uses: u32,
    },
    /// The node was started, and opened its owner's key.
    Open {
        /// The owner.
        owner: Did,
        /// How the key is kept.
        kept: crate::api::KeyKept,
    },
    /// The node was started with another configuration than the time before.
    Config {
        /// SHA-256 of all settings as JSON, wherever each came from.
        digest: Digest,
        /// The settings whose values are others; at the first start those that are not the defaults.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        changed: Vec<String>,
    },
    /// A plugin was registered on this node, or removed from it.
    Plugin {
        /// The component.
        component: Digest,
        /// Its name and release; none where it was removed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        plugin: Option<String>,
    },
    /// A publisher's plugins may run on this node from now on, or no longer.
    Publisher {
        /// The publisher.
        publisher: Did,
        /// Whether they may.
        trusted: bool,
    },
    /// A key by which programs speak through a gateway was made, or ended.
    ApiKey {
        /// The key.
        key: crate::id::KeyId,
        /// Whether it is valid.
        valid: bool,
    },
    /// The node's operator keeps another node out, or lets it in again.
    Ban {
        /// The other node.
        node: NodeId,
        /// For how long, in seconds; none where it may come in again.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        for_s: Option<u64>,
        /// Why, as the operator says.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// The node enters a mesh: it is in it, or asks to be admitted.
    Join {
        /// The mesh.
        into: MeshId,
    },
    /// The node left its mesh.
    Leave {
        /// The mesh.
        from: MeshId,
    },
    /// The owner gave up on the node that an agent was to move to: it goes on here.
    Stay {
        /// The agent.
        agent: AgentId,
        /// Its epoch from then on.
        epoch: u64,
    },
    /// A snapshot was handed out, to be taken elsewhere.
    Export {
        /// The agent.
        agent: AgentId,
        /// The snapshot.
        snapshot: crate::id::SnapshotId,
    },
    /// What was remembered of another node's trace was forgotten.
    Forget {
        /// The other node.
        node: NodeId,
    },
    /// Entries of this trace lost their content, but for those that open agreements need; their hashes stay.
    Prune {
        /// Those before this index.
        until: u64,
    },
}

/// One operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The entry's form: 1.
    pub version: u32,
    /// The operation.
    pub operation: OperationId,
    /// When it was decided.
    pub time: Timestamp,
    /// The mesh of the node.
    pub mesh: MeshId,
    /// Who asked for it.
    pub principal: Did,
    /// The agreement it ran under, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agreement: Option<AgreementId>,
    /// What was done.
    #[serde(flatten)]
    pub action: Action,
    /// The code of its failure; none where it succeeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<Code>,
    /// The request's id, the same on every node it touched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

impl Action {
    /// Whether entries name an action so: `execute`.
    ///
    /// # Errors
    /// Says which names there are.
    pub fn check_name(name: &str) -> Result<(), String> {
        // The reader knows all names; what else is missing is another matter.
        let read = serde_json::from_value::<Self>(serde_json::json!({ "action": name }));
        read.err().map(|error| error.to_string()).filter(|error| error.starts_with("unknown variant")).map_or(Ok(()), Err)
    }
}

/// The form this program writes.
pub const VERSION: u32 = 1;

/// An inclusion proof with all that is needed to verify it offline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InclusionProof {
    /// The entry's index.
    pub index: u64,
    /// The entry, byte for byte.
    pub entry: String,
    /// The siblings from leaf to root.
    #[serde(with = "merkle::base64_hashes")]
    pub hashes: Vec<Hash>,
    /// The signed checkpoint whose tree contains it.
    pub checkpoint: String,
}

/// Why an inclusion proof is refused.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    /// The checkpoint isn't one, or isn't signed by its node.
    #[error(transparent)]
    Checkpoint(#[from] crate::checkpoint::Error),
    /// The entry isn't in the checkpoint's tree at this index.
    #[error("entry {index} is not in the tree of the checkpoint")]
    Inclusion {
        /// The index claimed.
        index: u64,
    },
    /// The newer checkpoint's tree isn't shown to contain the older one's, or they are of two logs.
    #[error("the checkpoint of {new} entries is not shown to extend that of {old}")]
    Consistency {
        /// The older checkpoint's size.
        old: u64,
        /// The newer checkpoint's size.
        new: u64,
    },
    /// A form of entries that this program doesn't know.
    #[error("the entry is of version {found}; this program knows version {VERSION}")]
    Version {
        /// Its version.
        found: u32,
    },
    /// The entry's bytes aren't an entry.
    #[error("the entry can't be read: {0}")]
    Entry(#[from] serde_json::Error),
}

impl InclusionProof {
    /// Verifies checkpoint, inclusion and entry; returns both.
    pub fn verify(&self) -> Result<(crate::checkpoint::Checkpoint, Entry), ProofError> {
        #[derive(Deserialize)]
        struct Outline {
            version: u32,
        }

        let checkpoint = crate::checkpoint::Checkpoint::verify(&self.checkpoint)?;
        merkle::verify_inclusion(&self.leaf(), self.index, checkpoint.size, &self.hashes, &checkpoint.root)
            .map_err(|_| ProofError::Inclusion { index: self.index })?;
        // The version alone first: a later one may have members this program can't read.
        let Outline { version: found } = serde_json::from_str(&self.entry)?;
        if found != VERSION {
            return Err(ProofError::Version { found });
        }
        Ok((checkpoint, serde_json::from_str(&self.entry)?))
    }

    /// The entry's leaf hash.
    pub fn leaf(&self) -> Hash {
        merkle::leaf_hash(self.entry.as_bytes())
    }
}

/// A proof that one checkpoint's tree only adds to another's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsistencyProof {
    /// The older signed checkpoint.
    pub old: String,
    /// The newer signed checkpoint.
    pub new: String,
    /// The proof.
    #[serde(with = "merkle::base64_hashes")]
    pub hashes: Vec<Hash>,
}

impl ConsistencyProof {
    /// Verifies both checkpoints, that they are of one log, and the proof.
    pub fn verify(&self) -> Result<(), ProofError> {
        let old = crate::checkpoint::Checkpoint::verify(&self.old)?;
        let new = crate::checkpoint::Checkpoint::verify(&self.new)?;
        let consistent = merkle::verify_consistency(old.size, &old.root, new.size, &new.root, &self.hashes).is_ok();
        if consistent && old.origin() == new.origin() { Ok(()) } else { Err(ProofError::Consistency { old: old.size, new: new.size }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_action_is_known_by_its_name() {
        for name in ["execute", "api_key", "key_rotated", "prune"] {
            Action::check_name(name).expect(name);
        }
        for wrong in ["", "api-key", "Execute", "nonsense"] {
            let names = Action::check_name(wrong).expect_err(wrong);
            assert!(names.contains("`execute`") && names.contains("`api_key`"), "{names}");
        }
    }
}
