//! An agent from elsewhere: what its export holds was uploaded; here it is verified, and becomes an agent of this node.

use protocol::{Code, Problem, Timestamp, api, claim::IdSalt, entry::Action, manifest::is_name, snapshot::MAX_PLUGINS};
use store::{Commit, Kind, RecordWrite};

use super::Node;
use crate::node::{
    Caller,
    agents::{Record, attachment},
};

impl Node {
    /// Makes an agent of a snapshot, of this node or any other. Its plugin's publisher must be trusted here.
    pub(crate) async fn import(&self, caller: &Caller, import: api::Import) -> Result<api::Agent, Problem> {
        let signed = self.verified_snapshot(import.snapshot)?;
        let snapshot = signed.document();
        let name = import.name.unwrap_or_else(|| snapshot.name.clone());
        if !is_name(&name) {
            return Err(Problem::new(Code::InvalidRequest, format!("{name:?} is not an agent's name"))
                .hint("1 to 32 of a-z, 0-9, '-' and '_', beginning with a letter"));
        }
        self.agents.check_free(&name)?;
        if import.manifests.len() > MAX_PLUGINS {
            return Err(Problem::new(Code::TooLarge, format!("an agent has at most {MAX_PLUGINS} plugins")));
        }
        let mut plugins = Vec::new();
        for manifest in import.manifests {
            let plugin = self.plugins.register(caller, manifest).await?;
            self.plugins.check_grants(&plugin, &import.grants)?;
            plugins.push(attachment(&plugin));
        }
        if !plugins.iter().map(|plugin| plugin.component).eq(snapshot.plugins.iter().map(|ran| ran.component)) {
            return Err(Problem::new(Code::InvalidRequest, "the manifests are of other plugins than the snapshot's"));
        }
        let index = self.verified(&signed).await?;
        let (salt, created_at) = (IdSalt::random()?, Timestamp::now());
        let agent = salt.agent(self.owner, created_at);
        let note = |value| RecordWrite { kind: Kind::Staged, id: agent.to_string(), value };
        self.journal.keep(Commit { records: vec![note(Some(Vec::new()))], ..Commit::default() }).await?;
        let spawned = async {
            self.stage(agent, snapshot, &index).await?;
            let outline = api::Agent {
                id: agent,
                name,
                owner: self.owner,
                plugins,
                pricing: snapshot.pricing.clone(),
                limits: snapshot.limits,
                grants: import.grants,
                created_at,
                stopped: false,
                schedule: None,
                replicas: 0,
                epoch: 0,
                salt: Some(salt),
            };
            let action = Action::Import { agent, snapshot: snapshot.id, from: snapshot.agent };
            let entry = self.journal.append(caller.note(), action);
            let along = Commit { records: vec![note(None)], entry: Some(entry), ..Commit::default() };
            self.agents.admit(Record { outline, state: None, moving: None }, along).await
        };
        match spawned.await {
            Ok(outline) => Ok(outline),
            Err(problem) => {
                self.journal.keep(Commit { clear_state: Some(agent), records: vec![note(None)], ..Commit::default() }).await?;
                Err(problem)
            }
        }
    }
}
