//! Where agents are that lived here once, or that this node refused to take.

use std::collections::HashMap;

use parking_lot::RwLock;
use protocol::{AgentId, Code, NodeId, Problem};
use serde::{Deserialize, Serialize};
use store::{Kind, RecordWrite, Store};

use crate::node::journal;

/// An agent that isn't here, up to an epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Whereabouts {
    /// Its name, by which callers of this node know it.
    pub(crate) name: String,
    /// Its home.
    pub(crate) node: NodeId,
    /// Its epoch there. Here it lives in none up to that one.
    pub(crate) epoch: u64,
}

impl Whereabouts {
    /// To be kept.
    pub(super) fn record(&self, agent: AgentId) -> RecordWrite {
        RecordWrite { kind: Kind::Whereabouts, id: agent.to_string(), value: Some(journal::encode(self)) }
    }

    /// To be forgotten, when the agent comes back.
    pub(super) fn end(agent: AgentId) -> RecordWrite {
        RecordWrite { kind: Kind::Whereabouts, id: agent.to_string(), value: None }
    }

    /// What a caller is told, who can then ask there.
    pub(crate) fn told(&self, agent: &str) -> Problem {
        let short: String = agent.chars().take(80).collect();
        let mut problem = Problem::new(Code::AgentMoved, format!("agent {short} lives on node {}", self.node));
        problem.moved_to = Some(self.node);
        problem
    }
}

/// All of them, in memory: as many as ever lived here, some 100 bytes each.
#[derive(Debug, Default)]
pub(in crate::node) struct Elsewhere(RwLock<HashMap<AgentId, Whereabouts>>);

impl Elsewhere {
    pub(in crate::node) async fn open(store: &dyn Store) -> Result<Self, Problem> {
        let mut all = HashMap::new();
        for (id, bytes) in journal::sound_records(store, Kind::Whereabouts).await?.records {
            let id = id.parse().map_err(|_| Problem::new(Code::StoreFailed, format!("{id} is no agent's id")))?;
            all.insert(id, journal::decode("whereabouts", &bytes)?);
        }
        Ok(Self(all.into()))
    }

    /// Where the agent of this id or name is.
    pub(in crate::node) fn find(&self, id_or_name: &str) -> Option<(AgentId, Whereabouts)> {
        let all = self.0.read();
        match id_or_name.parse::<AgentId>() {
            Ok(id) => all.get(&id).map(|there| (id, there.clone())),
            Err(_) => {
                let mut named = all.iter().filter(|(_, there)| there.name == id_or_name).map(|(id, there)| (*id, there.clone()));
                // Of several that had the name, the one that left last.
                let first = named.next()?;
                Some(named.fold(first, |last, next| if next.0 > last.0 { next } else { last }))
            }
        }
    }

    /// In which epoch it is known to be elsewhere.
    pub(in crate::node) fn epoch(&self, agent: &AgentId) -> Option<u64> {
        self.0.read().get(agent).map(|there| there.epoch)
    }

    pub(in crate::node) fn insert(&self, agent: AgentId, there: Whereabouts) {
        self.0.write().insert(agent, there);
    }

    pub(in crate::node) fn remove(&self, agent: &AgentId) {
        self.0.write().remove(agent);
    }
}
