//! Components that the operator has revoked: whatever asks for one is refused, wherever it comes from.
//!
//! Kept apart from the plugins: a component may be revoked before it is here, and stays so when it goes.

use std::collections::BTreeMap;

use parking_lot::RwLock;
use protocol::{Code, Digest, Problem, Timestamp, api::Revocation, entry::Action};
use store::{Append, Commit, Kind, RecordWrite};

use super::{
    Caller,
    journal::{self, Journal},
};

/// Revocations that a node keeps; each takes about 200 bytes of memory.
const MAX_REVOKED: usize = 10_000;
/// The longest reason in bytes: one line.
const MAX_REASON: usize = 256;

/// The revocations of this node.
#[derive(Debug)]
pub(crate) struct Revoked {
    journal: Journal,
    known: RwLock<BTreeMap<Digest, Revocation>>,
    /// One change at a time, so that what is in memory is what was committed last.
    changing: tokio::sync::Mutex<()>,
}

impl Revoked {
    /// Restores what was revoked in an earlier run.
    pub(crate) async fn open(journal: Journal) -> Result<Self, Problem> {
        let store::SoundRecords { records, damaged } = journal::sound_records(journal.store().as_ref(), Kind::Revocation).await?;
        // What was revoked stays so, whatever became of the reason; of what nobody knows what it was, nothing may be run.
        let component = |row: &store::DamagedRow| row.record_id()?.parse::<Digest>().ok();
        let mut unreadable = Vec::new();
        for row in damaged {
            let component = component(&row).ok_or(store::Error::DamagedRow(row))?;
            unreadable.push((component, Revocation { component, reason: None, revoked_at: Timestamp::now() }));
        }
        let decode = |(_, bytes): (String, Vec<u8>)| {
            let revocation: Revocation = journal::decode("revocation", &bytes)?;
            Ok((revocation.component, revocation))
        };
        let mut known = records.into_iter().map(decode).collect::<Result<BTreeMap<_, _>, Problem>>()?;
        known.extend(unreadable);
        Ok(Self { journal, known: RwLock::new(known), changing: tokio::sync::Mutex::default() })
    }

    /// Refuses a component that is revoked.
    pub(crate) fn check(&self, component: &Digest) -> Result<(), Problem> {
        let Some(Revocation { reason, .. }) = self.get(component) else { return Ok(()) };
        let reason = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
        Err(Problem::new(Code::PluginRevoked, format!("plugin {component} is revoked on this node{reason}"))
            .hint("use another release of it; 'mcpctl plugin unrevoke' takes the revocation back"))
    }

    /// The revocation of a component.
    pub(crate) fn get(&self, component: &Digest) -> Option<Revocation> {
        self.known.read().get(component).cloned()
    }

    /// Every revocation, by component.
    pub(crate) fn all(&self) -> Vec<Revocation> {
        self.known.read().values().cloned().collect()
    }

    /// Revokes a component. Calls that run it now end as they would; none begins any more.
    pub(crate) async fn revoke(&self, caller: &Caller, component: Digest, reason: Option<String>) -> Result<Revocation, Problem> {
        if reason.as_ref().is_some_and(|text| text.is_empty() || text.len() > MAX_REASON || text.chars().any(char::is_control)) {
            return Err(Problem::new(Code::InvalidRequest, format!("a reason is one line of 1 to {MAX_REASON} bytes")));
        }
        let _one_at_a_time = self.changing.lock().await;
        match self.get(&component) {
            Some(known) if known.reason == reason => return Ok(known),
            None if self.known.read().len() >= MAX_REVOKED => {
                return Err(Problem::new(Code::Overloaded, format!("this node keeps {MAX_REVOKED} revocations, its most"))
                    .hint("untrust the publisher instead: 'mcpctl plugin untrust'"));
            }
            Some(_) | None => {}
        }
        let revocation = Revocation { component, reason: reason.clone(), revoked_at: Timestamp::now() };
        let entry = self.journal.append(caller.note(), Action::Revoke { component, reason });
        self.keep(component, Some(journal::encode(&revocation)), entry).await?;
        self.known.write().insert(component, revocation.clone());
        Ok(revocation)
    }

    /// Takes a revocation back.
    pub(crate) async fn unrevoke(&self, caller: &Caller, component: Digest) -> Result<(), Problem> {
        let _one_at_a_time = self.changing.lock().await;
        if self.get(&component).is_none() {
            return Err(Problem::new(Code::NotFound, format!("plugin {component} is not revoked on this node")));
        }
        let entry = self.journal.append(caller.note(), Action::Unrevoke { component });
        self.keep(component, None, entry).await?;
        self.known.write().remove(&component);
        Ok(())
    }

    async fn keep(&self, component: Digest, value: Option<Vec<u8>>, entry: Append) -> Result<(), Problem> {
        let record = RecordWrite { kind: Kind::Revocation, id: component.to_string(), value };
        self.journal.keep(Commit { records: vec![record], entry: Some(entry), ..Commit::default() }).await.map(drop)
    }
}
