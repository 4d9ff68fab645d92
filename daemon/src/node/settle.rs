//! Receipts that both parties have signed.
//!
//! ```text
//! consumer                                     provider
//! call: the newest receipt, signed by both ──> verified while the guest runs, kept
//!    <────────────────── the next receipt ──── written with the charge
//! idle, after a failure, at the end:
//! Acknowledge: the newest receipt, signed ───> verified, kept
//!    <──────── a newer one, if there is one ── made again from what was written with the last charge
//! ```
//!
//! What no call brings, because none follows or one was lost, is settled by itself: a moment after the last receipt, when a call
//! went wrong, when the provider comes back, and at the end. Nothing is tried again by a clock.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt as _, stream};
use protocol::{
    AgentId, AgreementId, Code, Expect, Header, NodeId, OperationId, Problem, Signed, SignedDuration, Timestamp, Usage,
    agreement::{Agreement, Window},
    api::{AgreementState, AgreementUsage, LimitState},
    custody::Undertaking,
    document::Sealed,
    receipt::{Position, Receipt},
    statement::Statement,
    wire::{Acknowledge, Request, Response, Standing},
};
use store::Kind;
use tokio_util::sync::CancellationToken;

use super::{
    Caller, Node,
    agreements::{Charged, Contract, claimed_number, receipt_record, sums},
    execute::strange,
    journal,
};

/// Receipts must be readable for as long as there may be a dispute.
pub(crate) const RECEIPT_VALIDITY: SignedDuration = SignedDuration::from_hours(10 * 366 * 24);
/// After this time without another receipt the newest is acknowledged by a message of its own.
const IDLE: Duration = Duration::from_secs(1);
/// How long the provider is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often one settlement takes a newer receipt: each tells of calls that came meanwhile.
const ROUNDS: usize = 8;
/// Agreements settled at once.
const AT_ONCE: usize = 8;
/// How often the newest receipt is read anew because another charge came in between.
const READS: usize = 64;

impl Node {
    /// The receipt of an operation, to be signed.
    pub(super) fn receipt(&self, terms: &Agreement, charged: Charged, (total, overage): (Usage, Usage), trace: Position) -> Receipt {
        let Charged { operation, agent, method, params, result, usage, at: _ } = charged;
        Receipt {
            header: Header::new::<Receipt>(&self.mesh_id, Timestamp::now(), RECEIPT_VALIDITY),
            agreement: terms.id,
            provider: self.owner,
            operation,
            agent,
            method,
            params,
            result,
            usage,
            sequence: total.calls,
            total,
            overage,
            price: terms.pricing.price(&total, &overage).unwrap_or_default(),
            currency: terms.pricing.currency.clone(),
            trace,
        }
    }

    /// The provider's newest receipt, as the store has it.
    async fn newest_receipt(&self, contract: &Contract) -> Result<Option<Signed<Receipt>>, Problem> {
        let (store, id) = (self.journal.store(), contract.id());
        for _ in 0..READS {
            let Some(written) = store.record(Kind::Charged, &id.to_string()).await? else { return Ok(contract.receipt()) };
            let usage = store.usage(&id).await?;
            // What was read belongs together if no charge came in between: each writes another operation.
            if store.record(Kind::Charged, &id.to_string()).await?.as_ref() != Some(&written) {
                continue;
            }
            let (total, overage) = sums(&usage);
            if let Some(signed) = contract.receipt().filter(|receipt| receipt.document().sequence >= total.calls) {
                return Ok(Some(signed));
            }
            let charged: Charged = journal::decode("charge", &written)?;
            let at = match charged.at {
                Some(at) => at,
                None => self.logged_at(&charged.operation).await?,
            };
            let receipt = self.receipt(&contract.terms(), charged, (total, overage), at);
            return Ok(Some(Signed::sign_by(receipt, &self.owner_key).await?));
        }
        Err(Problem::new(Code::Overloaded, format!("agreement {id} is too busy to say where it stands")))
    }

    /// What was undertaken about an agent, for the node that it moves to: what was written with the last charges too, with where
    /// they stand.
    pub(super) async fn undertakings(&self, agent: &AgentId) -> Result<Vec<Undertaking>, Problem> {
        let mut undertakings = self.agreements.undertakings(agent).await?;
        for undertaking in &mut undertakings {
            let id = self.agreements.verified(undertaking)?;
            undertaking.last = self.last_charge(&id).await?.map(Into::into);
        }
        Ok(undertakings)
    }

    async fn last_charge(&self, agreement: &AgreementId) -> Result<Option<Vec<u8>>, Problem> {
        let Some(written) = self.journal.store().record(Kind::Charged, &agreement.to_string()).await? else { return Ok(None) };
        let mut charged: Charged = journal::decode("charge", &written)?;
        if charged.at.is_none() {
            charged.at = Some(self.logged_at(&charged.operation).await?);
        }
        Ok(Some(journal::encode(&charged)))
    }

    /// Verifies and keeps a receipt that the consumer has signed; one that is no news isn't even verified. Answers whether it
    /// was news.
    pub(super) fn take_acknowledgement(&self, contract: &Contract, sealed: Sealed<Receipt>) -> Result<bool, Problem> {
        if !contract.is_news(claimed_number(&sealed)?) {
            return Ok(false);
        }
        let terms = contract.terms();
        let signed = sealed.open(Expect::archived(&self.mesh_id))?;
        signed.require(terms.provider)?;
        signed.require(terms.consumer)?;
        self.lineages.hear(&signed, &[terms.consumer])?;
        signed.document().check(&terms).map_err(|why| Problem::new(Code::ProofFailed, format!("the acknowledged receipt {why}")))?;
        if !contract.take_countersigned(&signed) {
            return Ok(false);
        }
        self.journal.keep_newest(receipt_record(&signed), signed.document().sequence);
        Ok(true)
    }

    /// The same beside a call, whose guest runs meanwhile.
    pub(super) fn acknowledge_beside(&self, contract: &Arc<Contract>, sealed: Option<Sealed<Receipt>>) {
        let Some(sealed) = sealed else { return };
        let (node, contract) = (self.clone(), Arc::clone(contract));
        self.tasks.spawn(async move {
            if let Err(problem) = node.take_acknowledgement(&contract, sealed) {
                tracing::warn!(agreement = %contract.id(), %problem, "the consumer's signature under a receipt was not taken");
            }
        });
    }

    /// A consumer says which receipt it has, and learns whether there is a newer one.
    pub(super) async fn answer_acknowledgement(&self, from: NodeId, acknowledge: Acknowledge) -> Result<Standing, Problem> {
        let contract = self.agreements.get(&acknowledge.agreement).await?;
        let terms = contract.terms();
        if terms.provider != self.owner || terms.consumer_node != from {
            return Err(Problem::new(Code::AgreementScope, format!("agreement {} is not one of these two nodes", terms.id)));
        }
        self.require_at_home(&terms)?;
        contract.require_books(&self.mesh_id, Timestamp::now())?;
        let brought = acknowledge.receipt.as_ref().map(claimed_number).transpose()?.unwrap_or_default();
        if let Some(receipt) = acknowledge.receipt
            && self.take_acknowledgement(&contract, receipt)?
        {
            self.journal.flush().await;
            if contract.is_closed() {
                self.agreements.ends.notify_one();
            }
        }
        let missed = contract.missed(acknowledge.transitions, acknowledge.proposed);
        if missed.is_empty() {
            self.agreements.told(&contract, acknowledge.transitions).await?;
        }
        // Looked at before the newest receipt: what ends in between is counted, or in it.
        let under_way = contract.under_way();
        let (newest, acknowledged) = (self.newest_receipt(&contract).await?, contract.acknowledged());
        // Once the books are closed it may bring one that isn't taken any more.
        let has = acknowledged.max(if contract.closing().is_some() { brought } else { 0 });
        Ok(Standing {
            receipt: newest.filter(|newest| newest.document().sequence > has).map(Into::into),
            usage: self.journal.store().usage(&terms.id).await?,
            acknowledged,
            missed,
            under_way,
        })
    }

    /// Brings the provider the consumer's newest receipt, and fetches a newer one, until both have the same.
    pub(super) async fn settle_receipts(&self, contract: &Arc<Contract>, request_id: &str) -> Result<Standing, Problem> {
        let _settling = contract.settling.lock().await;
        let terms = contract.terms();
        for _ in 0..ROUNDS {
            if let Some(closing) = contract.closing() {
                let detail = format!("the books of agreement {} are closed, on receipt {}", terms.id, closing.receipt);
                return Err(Problem::new(Code::Conflict, detail));
            }
            let receipt = contract.countersigned(&self.owner_key).await?;
            let number = receipt.as_ref().map_or(0, |receipt| receipt.document().sequence);
            // Calls that go wrong from here on say so anew.
            let settled = contract.begin_settling();
            let acknowledge = self.standing_of(contract, receipt.clone().map(Into::into));
            let asked = async {
                let home = self.home_of(&terms.agent, Some(contract)).await?;
                self.ask_home(home, &terms.agent, Request::Acknowledge(Box::new(acknowledge)), request_id, PATIENCE).await
            };
            let (node, response) = asked.await?;
            let Response::Standing(mut standing) = response else { return Err(strange(node)) };
            contract.deliver(standing.acknowledged.min(number));
            let missed = std::mem::take(&mut standing.missed);
            if !missed.is_empty() {
                // The provider hears that it was taken.
                self.take_missed(node, contract, missed, request_id).await?;
                continue;
            }
            let Some(newer) = standing.receipt.clone() else {
                if let Some(receipt) = receipt {
                    self.journal.keep_newest(receipt_record(&receipt), number);
                    self.journal.flush().await;
                }
                match standing.under_way {
                    0 => settled.done(),
                    // Their callers may have left: nobody else hears of what they are charged.
                    _ => self.settle_again(contract),
                }
                if contract.is_closed() {
                    self.agreements.ends.notify_one();
                }
                return Ok(*standing);
            };
            let newer = newer.open(Expect::at(&self.mesh_id, Timestamp::now()))?;
            newer.require(terms.provider)?;
            self.lineages.hear(&newer, &[terms.provider])?;
            newer.document().check(&terms).map_err(|why| Problem::new(Code::ProofFailed, format!("the provider's receipt {why}")))?;
            if contract.take_receipt(&newer)? {
                self.journal.keep_newest(receipt_record(&newer), newer.document().sequence);
            }
        }
        Err(Problem::new(Code::Overloaded, format!("agreement {} is in use: its receipts never came to an end", terms.id)))
    }

    /// Settles what nobody else does, whenever there is a reason to, until cancelled.
    pub(crate) async fn keep_settled(self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.agreements.unsettled.notified() => {}
            }
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(IDLE) => self.settle_idle(IDLE).await,
            }
        }
    }

    /// Settles every agreement of this consumer in which no receipt came for a while.
    pub(super) async fn settle_idle(&self, idle: Duration) {
        let (busy, idle): (Vec<_>, Vec<_>) = self.agreements.unsettled().into_iter().partition(|contract| contract.is_busy(idle));
        if !busy.is_empty() {
            self.agreements.unsettled.notify_one();
        }
        let settling = idle.into_iter().map(async |contract| {
            if let Some(wanted) = contract.wanted()
                && let Err(problem) = self.bring(&contract, &wanted, &request_id()).await
            {
                tracing::warn!(agreement = %contract.id(), %problem, "the provider refused what this owner wanted");
            }
            if let Err(problem) = self.settle_receipts(&contract, &request_id()).await {
                tracing::debug!(agreement = %contract.id(), %problem, "not settled; once more when its provider comes back");
            }
        });
        stream::iter(settling).buffer_unordered(AT_ONCE).collect::<()>().await;
    }

    /// Fills in what a state can't say without the store: the provider's newest receipt.
    pub(super) async fn with_receipts(&self, contract: &Contract, mut state: AgreementState) -> Result<AgreementState, Problem> {
        if state.terms.provider == self.owner {
            let countersigned = contract.receipt();
            let newest = match self.newest_receipt(contract).await {
                // What was used is known without it; the newest that both signed is here.
                Err(problem) if problem.code == Code::KeyUnavailable => countersigned.clone(),
                newest => newest?,
            };
            let number = |receipt: &Option<Signed<Receipt>>| receipt.as_ref().map(|receipt| receipt.document().sequence);
            state.bundle.countersigned = countersigned.filter(|_| number(&contract.receipt()) != number(&newest)).map(Into::into);
            state.bundle.receipt = newest.map(Into::into);
        }
        Ok(state)
    }

    /// All that this node's owner can show of an agreement, signed.
    pub(crate) async fn statement(&self, caller: &Caller, id: &AgreementId) -> Result<Signed<Statement>, Problem> {
        let contract = self.agreements.get(id).await?;
        let terms = contract.terms();
        if terms.consumer == self.owner && contract.closing().is_none() {
            // As far as the provider can be asked; whoever is gone keeps nobody from stating what he has.
            if let Err(problem) = self.settle_receipts(&contract, &caller.request_id).await {
                tracing::info!(agreement = %id, %problem, "stated without asking the provider");
            }
            contract.countersigned(&self.owner_key).await?;
        }
        let state = self.with_receipts(&contract, self.agreements.show(&contract)).await?;
        let open =
            |sealed: &Option<Sealed<Receipt>>| sealed.clone().map(|sealed| sealed.open(Expect::archived(&terms.header.mesh))).transpose();
        let (newest, earlier) = (open(&state.bundle.receipt)?, open(&state.bundle.countersigned)?);
        let both = |receipt: &&Signed<Receipt>| receipt.require(terms.consumer).is_ok();
        let acknowledged = newest.iter().chain(&earlier).filter(both).map(|receipt| receipt.document().sequence).max().unwrap_or_default();
        let (total, overage) = newest.as_ref().map(|newest| (newest.document().total, newest.document().overage)).unwrap_or_default();
        let statement = Statement {
            header: Header::new::<Statement>(&terms.header.mesh, Timestamp::now(), RECEIPT_VALIDITY),
            agreement: terms.id,
            by: self.owner,
            status: state.status,
            reason: state.reason,
            bundle: state.bundle,
            total,
            overage,
            price: terms.pricing.price(&total, &overage).unwrap_or_default(),
            currency: terms.pricing.currency.clone(),
            acknowledged,
            closing: state.closing,
        };
        Signed::sign_by(statement, &self.owner_key).await
    }

    /// What an agreement has used, and what is left. The consumer asks the provider, which counts.
    pub(crate) async fn agreement_usage(&self, caller: &Caller, id: &AgreementId) -> Result<AgreementUsage, Problem> {
        let contract = self.agreements.get(id).await?;
        let (terms, now) = (contract.terms(), Timestamp::now());
        let provides = terms.provider == self.owner;
        let asked = if provides {
            let usage = self.journal.store().usage(id).await?;
            Some((usage, contract.acknowledged()))
        } else {
            self.settle_receipts(&contract, &caller.request_id).await.ok().map(|standing| (standing.usage, standing.acknowledged))
        };
        let known = || {
            let receipt = contract.receipt();
            let said = receipt.as_ref().map(|receipt| receipt.document());
            let (total, overage) = said.map(|said| (said.total, said.overage)).unwrap_or_default();
            (total, overage)
        };
        let (total, overage) = asked.as_ref().map_or_else(known, |(usage, _)| sums(usage));
        let limits = terms.limits.iter().map(|limit| {
            let bucket = limit.window.bucket(now);
            let counted = |(usage, _): &(Vec<(String, Usage)>, u64)| {
                usage.iter().find(|(name, _)| *name == bucket).map(|(_, used)| *used).unwrap_or_default()
            };
            let used = match (&asked, limit.window) {
                (Some(asked), _) => Some(counted(asked)),
                (None, Window::Total) => Some(total),
                (None, Window::Day | Window::Hour) => None,
            };
            let (used, hard_max) = (used.map(|used| limit.quantity.of(&used)), limit.quantity.of(&terms.hard_caps(limit.window)));
            let resets_at = agreement::meter::resets_at(limit.window, now).filter(|at| *at < terms.header.expires_at);
            LimitState { limit: *limit, hard_max, used, left: used.map(|used| hard_max.saturating_sub(used)), resets_at }
        });
        Ok(AgreementUsage {
            id: *id,
            status: contract.status(now),
            side: if provides { "provider" } else { "consumer" }.into(),
            total,
            overage,
            price: terms.pricing.price(&total, &overage).unwrap_or_default(),
            currency: terms.pricing.currency.clone(),
            limits: limits.collect(),
            receipt: total.calls,
            acknowledged: asked.as_ref().map_or_else(|| contract.receipt_number(), |(_, acknowledged)| *acknowledged),
            current: asked.is_some(),
            closing: contract.closing(),
        })
    }

    /// Where an operation stands in this node's trace.
    pub(super) async fn logged_at(&self, operation: &OperationId) -> Result<Position, Problem> {
        let logged = self.journal.store().entry_of(operation).await?;
        let missing = || Problem::new(Code::StoreFailed, format!("operation {operation} is missing from the trace"));
        let logged = logged.ok_or_else(missing)?;
        Ok(Position { log: self.node_id, index: logged.index, leaf: logged.leaf })
    }
}

/// A request's id, for what nobody asked for.
fn request_id() -> String {
    OperationId::new().to_string().replacen("op_", "req_", 1)
}

/// What a receipt says of a call that was answered.
pub(super) fn charged(agent: AgentId, method: &str, params: &[u8], answered: &super::run::Answered) -> Charged {
    Charged {
        operation: answered.operation,
        agent,
        method: method.into(),
        params: protocol::Digest::sha256(params),
        result: super::execute::result_digest(&answered.outcome),
        usage: answered.usage,
        at: None,
    }
}
