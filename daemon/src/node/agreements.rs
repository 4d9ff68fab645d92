//! The agreements that this node's owner is a party of: kept, moved on, metered, and closed.

mod budget;
mod closing;
mod contract;
mod departed;
mod force;
mod held;
mod proposals;
mod receipts;
mod sent;
mod shown;
mod steps;

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use agreement::{SentCalls, meter::Meter};
use parking_lot::{Mutex, RwLock};
use protocol::{
    AgentId, AgreementId, Code, Did, Expect, MeshId, Problem, Signed, SignedDuration, Timestamp, Usage,
    agreement::{Agreement, Status, Transition},
    api::Departed,
    custody::Undertaking,
    document::Sealed,
    entry::Action,
    lifecycle,
    receipt::{Dispute, Receipt},
    statement::Closing,
};
use store::{Commit, Kind, RecordWrite};
use tokio::{sync::Notify, time::Instant};

use self::steps::Untold;
pub(crate) use self::{
    budget::{Kept, Rule},
    held::Held,
    receipts::{Charged, claimed_agreement, claimed_number, record as receipt_record, sums},
    shown::priced,
    steps::{Order, check_number},
};
use super::{
    Caller,
    journal::{self, Journal},
};

/// Agreements whose books are not yet closed and so stay in memory, about 4 KB each.
const MAX_OPEN: usize = 10_000;
/// Steps that one agreement may take; the last of them can only close it.
pub(crate) const MAX_TRANSITIONS: usize = 256;

/// All agreements of this node's owner.
#[derive(Debug)]
pub(crate) struct Agreements {
    journal: Journal,
    mesh: MeshId,
    owner: Did,
    /// The most calls of one agreement beyond the newest receipt that its consumer has signed.
    max_unacknowledged: u64,
    /// For how long after the end of an agreement its last receipts may still be signed, and its last step told.
    grace: SignedDuration,
    /// Since when they are kept here: what had its end before has the same grace.
    opened: Timestamp,
    /// Rung when a consumer has a receipt that the provider may lack with its signature.
    pub(super) unsettled: Notify,
    /// Rung when the next end of an agreement may be another one.
    pub(super) ends: Notify,
    open: RwLock<HashMap<AgreementId, Arc<Contract>>>,
    /// Of this owner as the consumer, the agreements whose books were closed last, with their agents: calls made under them may
    /// still be repeated.
    ended: Mutex<VecDeque<(AgentId, AgreementId)>>,
    /// Of others, those whose books were closed without a call.
    unused: proposals::Unused,
    /// How often others may propose.
    admission: proposals::Admission,
    /// What was accepted without the operator.
    budgets: budget::Budgets,
    /// Held while an agreement is kept or moved on: check, commit and memory belong together.
    moving: tokio::sync::Mutex<()>,
}

/// One agreement as this node holds it.
#[derive(Debug)]
pub(crate) struct Contract {
    id: AgreementId,
    /// Read from the store to be shown and proven: not the one in memory, under which calls run.
    is_copy: bool,
    /// Held by the consumer while it settles.
    pub(super) settling: tokio::sync::Mutex<()>,
    /// Held by the consumer while the next block of calls becomes durable.
    reserving: tokio::sync::Mutex<()>,
    standing: Mutex<Standing>,
}

#[derive(Debug)]
struct Standing {
    signed: Signed<Agreement>,
    state: lifecycle::State,
    transitions: Vec<Sealed<Transition>>,
    meter: Meter,
    /// What passed limits, of what was charged here.
    overage: Usage,
    /// See [`Contract::receipt`].
    receipt: Option<Signed<Receipt>>,
    delivered: receipts::Delivered,
    /// The calls that were sent, at the consumer.
    sent: SentCalls,
    /// The receipt that can't be true, at the consumer.
    dispute: Option<Dispute>,
    untold: Option<Untold>,
    /// The rule that accepted it without the operator.
    rule: Option<Arc<Rule>>,
    /// Until then a call of this consumer may be charged whose answer nobody waits for: so long it isn't settled.
    abandoned: Option<Instant>,
    /// Nothing is reserved or taken any more: its books are closed or being closed, or this is a copy.
    frozen: bool,
    /// How it came to its end.
    closing: Option<Closing>,
    /// Why it is not in force here any more.
    departed: Option<Departed>,
}

impl Agreements {
    /// Restores the agreements whose books are not closed.
    pub(crate) async fn open(
        journal: Journal,
        mesh: MeshId,
        owner: Did,
        (max_unacknowledged, grace): (u64, SignedDuration),
    ) -> Result<Self, Problem> {
        let (open, ended, moving) = (RwLock::default(), Mutex::default(), tokio::sync::Mutex::default());
        let opened = journal.clock().believed();
        let (unsettled, ends) = (Notify::new(), Notify::new());
        let (unused, admission, budgets) = (proposals::Unused::default(), proposals::Admission::default(), budget::Budgets::default());
        let agreements = Self {
            journal,
            mesh,
            owner,
            max_unacknowledged,
            grace,
            opened,
            unsettled,
            ends,
            open,
            ended,
            unused,
            admission,
            budgets,
            moving,
        };
        let store = agreements.journal.store();
        // Of a damaged one the agreement is left out, too: what reads it again fails as this did, and nothing is billed by it.
        let closed: HashMap<_, _> = journal::sound_records(store.as_ref(), Kind::Closing).await?.records.into_iter().collect();
        let mut past = proposals::Past::default();
        for (id, bytes) in journal::sound_records(store.as_ref(), Kind::Agreement).await?.records {
            if let Some(closing) = closed.get(&id) {
                agreements.recall(&id, &bytes, closing, &mut past);
                continue;
            }
            if agreements.has_lapsed(&bytes) {
                past.lapsed.push(id);
                continue;
            }
            // One record that can't be read must not keep the node from starting; 'agreement show' tells what is wrong.
            let contract = match agreements.restore(&bytes).await {
                Ok(contract) => contract,
                Err(problem) => {
                    tracing::error!(%problem, "an agreement was left out");
                    continue;
                }
            };
            let terms = contract.terms();
            // Of an agent that left it is an archive.
            let is_kept = contract.departed().is_none() || terms.provider != owner;
            if is_kept && terms.header.mesh == agreements.mesh {
                agreements.open.write().insert(contract.id, Arc::new(contract));
            }
        }
        agreements.forget_past(past).await?;
        agreements.restore_budgets().await?;
        Ok(agreements)
    }

    /// The agreement of a record, as it stands in memory if calls may be made under it.
    async fn restored(&self, bytes: &[u8]) -> Result<Arc<Contract>, Problem> {
        let contract = self.restore(bytes).await?;
        Ok(self.find_open(&contract.id).unwrap_or_else(|| contract.into_copy()))
    }

    async fn restore(&self, bytes: &[u8]) -> Result<Contract, Problem> {
        let sealed: Sealed<Agreement> = journal::decode("agreement", bytes)?;
        // The node may have been in another mesh when it agreed.
        let mesh = sealed.claimed_header()?.mesh;
        let signed = sealed.open(Expect::archived(&mesh))?;
        let id = signed.document().id;
        let store = self.journal.store();
        let mut state = lifecycle::State::of(&signed)?;
        let mut transitions = Vec::new();
        let prefix = format!("{id}/");
        for (key, bytes) in store.records(Kind::Transition, Some(&prefix), MAX_TRANSITIONS).await? {
            if !key.starts_with(&prefix) {
                break;
            }
            let transition = journal::decode::<Sealed<Transition>>("transition", &bytes)?;
            let opened = transition.clone().open(Expect::archived(&mesh))?;
            state.apply(signed.document(), &opened, opened.document().header.issued_at)?;
            transitions.push(transition);
        }
        let receipt = match store.record(Kind::Receipt, &id.to_string()).await? {
            Some(bytes) => Some(journal::decode::<Sealed<Receipt>>("receipt", &bytes)?.open(Expect::archived(&mesh))?),
            None => None,
        };
        let usage = store.usage(&id).await?;
        let contract = self.contract(signed, state, transitions, usage, receipt);
        let untold = store.record(Kind::Untold, &id.to_string()).await?;
        let closing = store.record(Kind::Closing, &id.to_string()).await?;
        let dispute = store.record(Kind::Dispute, &id.to_string()).await?;
        let sent = sent::restored(store.record(Kind::Sent, &id.to_string()).await?, contract.receipt_number())?;
        let departed = self.mark_of(&id).await?;
        {
            let mut standing = contract.standing.lock();
            standing.sent = sent;
            standing.dispute = dispute.map(|bytes| journal::decode("disputed receipt", &bytes)).transpose()?;
            standing.untold = untold.map(|bytes| journal::decode("untold step", &bytes)).transpose()?;
            standing.closing = closing.map(|bytes| journal::decode("closing", &bytes)).transpose()?;
            standing.frozen = standing.closing.is_some();
            standing.departed = departed;
        }
        Ok(contract)
    }

    fn contract(
        &self,
        signed: Signed<Agreement>,
        state: lifecycle::State,
        transitions: Vec<Sealed<Transition>>,
        usage: Vec<(String, Usage)>,
        receipt: Option<Signed<Receipt>>,
    ) -> Contract {
        let (id, (_, overage)) = (signed.document().id, sums(&usage));
        let mut meter = Meter::new(signed.document(), usage);
        meter.bound_exposure(self.max_unacknowledged, receipt.as_ref().map_or(0, |receipt| receipt.document().sequence));
        let delivered = receipts::Delivered::default();
        let (sent, dispute, untold, rule) = (SentCalls::new(), None, None, None);
        let (abandoned, frozen, closing, departed) = (None, false, None, None);
        let standing = Standing {
            signed,
            state,
            transitions,
            meter,
            overage,
            receipt,
            delivered,
            sent,
            dispute,
            untold,
            rule,
            abandoned,
            frozen,
            closing,
            departed,
        };
        let (settling, reserving) = Default::default();
        Contract { id, is_copy: false, settling, reserving, standing: Mutex::new(standing) }
    }

    /// The agreement of this id: the one in memory, or a copy from the store under which nothing can happen any more (see
    /// [`Contract::require_in_force`]).
    pub(crate) async fn get(&self, id: &AgreementId) -> Result<Arc<Contract>, Problem> {
        if let Some(contract) = self.open.read().get(id) {
            return Ok(Arc::clone(contract));
        }
        let bytes = self.journal.store().record(Kind::Agreement, &id.to_string()).await?;
        let missing = || Problem::new(Code::NotFound, format!("no agreement {id} is known to this node"));
        self.restored(&bytes.ok_or_else(missing)?).await
    }

    /// The agreement of this id, if calls may still be made under it.
    pub(crate) fn find_open(&self, id: &AgreementId) -> Option<Arc<Contract>> {
        self.open.read().get(id).cloned()
    }

    /// The agreement of this id, open or closed, if there is one.
    pub(crate) async fn lookup(&self, id: &AgreementId) -> Result<Option<Arc<Contract>>, Problem> {
        match self.get(id).await {
            Ok(contract) => Ok(Some(contract)),
            Err(problem) if problem.code == Code::NotFound => Ok(None),
            Err(problem) => Err(problem),
        }
    }

    /// Whether this is a party of an agreement that isn't closed.
    pub(crate) fn has_party(&self, party: Did) -> bool {
        self.open.read().values().any(|contract| {
            let standing = contract.standing.lock();
            let terms = standing.signed.document();
            terms.provider == party || terms.consumer == party
        })
    }

    /// Whether this owner is the consumer of an agreement with `provider` that isn't closed.
    pub(crate) fn buys_from(&self, provider: Did) -> bool {
        self.open.read().values().any(|contract| {
            let standing = contract.standing.lock();
            let terms = standing.signed.document();
            terms.provider == provider && terms.consumer == self.owner
        })
    }

    /// An active agreement under which this owner may call, and wants to, `method` of `agent`, the one that lasts longest.
    pub(crate) fn covering(&self, agent: &AgentId, method: &str, now: Timestamp) -> Option<Arc<Contract>> {
        let open = self.open.read();
        let covers = |contract: &&Arc<Contract>| {
            let standing = contract.standing.lock();
            let terms = standing.signed.document();
            terms.consumer == self.owner
                && terms.agent == *agent
                && terms.covers(method)
                && standing.status(now) == Status::Active
                && !standing.is_given_up()
                && standing.dispute.is_none()
        };
        open.values().filter(covers).max_by_key(|contract| contract.terms().header.expires_at).cloned()
    }

    /// The agreement of this owner, as the consumer, about `agent` that lasts or lasted longest: whatever has become of it.
    pub(crate) async fn latest_of(&self, agent: &AgentId) -> Option<Arc<Contract>> {
        let ours = |contract: &&Arc<Contract>| {
            let standing = contract.standing.lock();
            let terms = standing.signed.document();
            terms.consumer == self.owner && terms.agent == *agent && standing.state.status != Status::Proposed
        };
        let open = self.open.read().values().filter(ours).max_by_key(|contract| contract.terms().header.expires_at).cloned();
        if open.is_some() {
            return open;
        }
        let ended = self.ended.lock().iter().rev().find(|(of, _)| of == agent).map(|(_, id)| *id)?;
        self.get(&ended).await.ok()
    }

    /// Keeps an agreement as it is signed now, with an entry of the status that it reached; if `untold`, until the consumer is
    /// told.
    pub(crate) async fn keep(&self, caller: &Caller, signed: Signed<Agreement>, untold: bool) -> Result<Arc<Contract>, Problem> {
        // Two that sign the same terms at once must not both replace what is held.
        let _moving = self.moving.lock().await;
        self.keep_with(caller, signed, untold.then_some(Untold::Taken), Vec::new()).await
    }

    /// The same with other records beside it; `moving` is held.
    async fn keep_with(
        &self,
        caller: &Caller,
        signed: Signed<Agreement>,
        untold: Option<Untold>,
        mut records: Vec<RecordWrite>,
    ) -> Result<Arc<Contract>, Problem> {
        let id = signed.document().id;
        let state = lifecycle::State::of(&signed)?;
        let status = state.status;
        let proposed = self.lookup(&id).await?;
        if let Some(contract) = &proposed {
            if contract.is_copy {
                return Err(Problem::new(Code::AlreadyExists, format!("agreement {id} is over")));
            }
            let now = contract.state().status;
            if now == status {
                return Ok(Arc::clone(contract));
            }
            let countersigned = now == Status::Proposed && contract.signed().envelope().payload == signed.envelope().payload;
            if !countersigned {
                return Err(Problem::new(Code::AlreadyExists, format!("agreement {id} is {now} already")));
            }
        } else {
            self.check_places(signed.document(), status, Timestamp::now())?;
        }
        let mut note = caller.note();
        note.agreement = Some(id);
        let entry = self.journal.append(note, Action::Agreement { status });
        records.push(RecordWrite { kind: Kind::Agreement, id: id.to_string(), value: Some(journal::encode(&signed)) });
        records.extend(untold.iter().map(|untold| untold.record(&id)));
        if proposed.is_none() && signed.document().consumer == self.owner {
            records.push(sent::record(&id, SentCalls::new().reserved()));
        }
        self.journal.keep(Commit { records, entry: Some(entry), ..Commit::default() }).await?;
        if let Some(contract) = proposed {
            let mut standing = contract.standing.lock();
            (standing.signed, standing.state) = (signed, state);
            standing.untold = untold.or(standing.untold.take());
            drop(standing);
            return Ok(contract);
        }
        let contract = Arc::new(self.contract(signed, state, Vec::new(), self.journal.store().usage(&id).await?, None));
        self.open.write().insert(id, Arc::clone(&contract));
        self.ends.notify_one();
        Ok(contract)
    }

    /// What this owner, as the provider, has undertaken about an agent, the books of which aren't closed; for the node that it moves to.
    pub(crate) async fn undertakings(&self, agent: &AgentId) -> Result<Vec<Undertaking>, Problem> {
        let about: Vec<_> = self.open.read().values().filter(|contract| self.provides(contract, agent)).cloned().collect();
        let mut undertakings = Vec::new();
        for contract in about {
            let usage = self.journal.store().usage(&contract.id).await?;
            let standing = contract.standing.lock();
            let (agreement, transitions) = (standing.signed.clone().into(), standing.transitions.clone());
            let countersigned = standing.receipt.clone().map(Into::into);
            let untold = standing.untold.is_some();
            undertakings.push(Undertaking { agreement, transitions, usage, countersigned, last: None, untold });
        }
        Ok(undertakings)
    }

    /// The id of an agreement that comes with an agent, if this owner is its provider.
    pub(crate) fn verified(&self, undertaking: &Undertaking) -> Result<AgreementId, Problem> {
        let signed = undertaking.agreement.clone().open(Expect::archived(&self.mesh))?;
        let terms = signed.document();
        if terms.provider != self.owner {
            return Err(Problem::new(Code::AgreementScope, format!("agreement {} is not one of this provider", terms.id)));
        }
        signed.require(terms.consumer)?;
        Ok(terms.id)
    }

    /// The records of an agreement that comes with an agent: they take the place of all that is here of it.
    pub(crate) async fn records(&self, undertaking: &Undertaking) -> Result<Vec<RecordWrite>, Problem> {
        let id = self.verified(undertaking)?;
        let outdated = self.outdated(&id, undertaking).await?;
        let agreement = RecordWrite { kind: Kind::Agreement, id: id.to_string(), value: Some(journal::encode(&undertaking.agreement)) };
        let transitions = undertaking.transitions.iter().zip(1_u64..).map(|(transition, sequence)| RecordWrite {
            kind: Kind::Transition,
            id: transition_id(&id, sequence),
            value: Some(journal::encode(transition)),
        });
        let record = |kind, value: Vec<u8>| RecordWrite { kind, id: id.to_string(), value: Some(value) };
        let countersigned = undertaking.countersigned.iter().map(|receipt| record(Kind::Receipt, journal::encode(receipt)));
        let last = undertaking.last.iter().map(|last| record(Kind::Charged, last.to_vec()));
        let untold = if undertaking.untold { Untold::Taken.record(&id) } else { Untold::over(&id) };
        Ok(outdated.into_iter().chain([agreement]).chain(transitions).chain(countersigned).chain(last).chain([untold]).collect())
    }

    /// Takes an agreement from the store, where it came with an agent.
    pub(crate) async fn reopen(&self, sealed: &Sealed<Agreement>) -> Result<(), Problem> {
        let contract = self.restore(&journal::encode(sealed)).await?;
        if contract.closing().is_none() && contract.terms().header.mesh == self.mesh {
            self.open.write().insert(contract.id, Arc::new(contract));
            self.ends.notify_one();
        }
        Ok(())
    }

    fn provides(&self, contract: &Contract, agent: &AgentId) -> bool {
        let standing = contract.standing.lock();
        let terms = standing.signed.document();
        terms.provider == self.owner && terms.agent == *agent
    }
}

fn transition_id(agreement: &AgreementId, sequence: u64) -> String {
    format!("{agreement}/{sequence:06}")
}
