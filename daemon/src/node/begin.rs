//! What a start enters into the trace: that the owner's key was opened, and whether configuration or mesh are others than before.

use std::collections::BTreeMap;

use protocol::{Digest, MeshId, Problem, api::Setting, entry::Action};
use serde_json::Value;
use store::{Commit, Kind, RecordWrite};

use super::{Caller, Node, journal};

/// Under which names a node remembers what its settings were, and which mesh it was in.
const CONFIGURATION: &str = "configuration";
const MESH: &str = "mesh";

impl Node {
    /// Enters an action into the trace, together with what it changes.
    pub(super) async fn enter_action(&self, caller: &Caller, action: Action, records: Vec<RecordWrite>) -> Result<(), Problem> {
        let entry = self.journal.append(caller.note(), action);
        self.journal.keep(Commit { records, entry: Some(entry), ..Commit::default() }).await.map(drop)
    }

    /// See the module.
    pub(super) async fn note_start(&self, settings: &[Setting]) -> Result<(), Problem> {
        let caller = Caller { principal: self.owner, request_id: String::new() };
        self.note_configuration(&caller, settings).await?;
        self.note_mesh(&caller).await?;
        let action = Action::Open { owner: self.owner, kept: self.owner_key.kept() };
        self.enter_action(&caller, action, Vec::new()).await
    }

    async fn note_configuration(&self, caller: &Caller, settings: &[Setting]) -> Result<(), Problem> {
        let values: BTreeMap<&str, &Value> = settings.iter().map(|setting| (setting.key.as_str(), &setting.value)).collect();
        let body = journal::encode(&values);
        let before = journal::noted(self.journal.store().as_ref(), CONFIGURATION).await?;
        if before.as_ref() == Some(&body) {
            return Ok(());
        }
        let before: BTreeMap<String, Value> = match before {
            Some(bytes) => journal::decode("note of the configuration", &bytes)?,
            None => settings.iter().filter(|one| one.source == "default").map(|one| (one.key.clone(), one.value.clone())).collect(),
        };
        let changed = settings.iter().filter(|setting| before.get(&setting.key) != Some(&setting.value));
        let action = Action::Config { digest: Digest::sha256(&body), changed: changed.map(|setting| setting.key.clone()).collect() };
        let record = RecordWrite { kind: Kind::Meta, id: CONFIGURATION.into(), value: Some(body) };
        self.enter_action(caller, action, vec![record]).await
    }

    /// Papers and configuration say which mesh a node is in; whoever asked for that over the API has entered it already.
    async fn note_mesh(&self, caller: &Caller) -> Result<(), Problem> {
        let before = journal::noted(self.journal.store().as_ref(), MESH).await?;
        let before: Option<MeshId> = before.map(|bytes| journal::decode("note of the mesh", &bytes)).transpose()?;
        let (before, now) = (before.unwrap_or_else(MeshId::none), self.mesh_id.clone());
        if before == now {
            return Ok(());
        }
        let action = if now == MeshId::none() { Action::Leave { from: before } } else { Action::Join { into: now.clone() } };
        self.enter_action(caller, action, vec![of_mesh(&now)]).await
    }
}

/// The record of the mesh that the trace says the node is in.
pub(super) fn of_mesh(mesh: &MeshId) -> RecordWrite {
    RecordWrite { kind: Kind::Meta, id: MESH.into(), value: Some(journal::encode(mesh)) }
}
