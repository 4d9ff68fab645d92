//! The offline verification of an agreement: what both parties signed, what happened to it, and what was used.
//!
//! ```text
//! terms ── signed by consumer and provider ─> transitions ── each by a party, in turn ─> status
//!   └─ receipt ── signed by the provider, for these terms, at their price ─> usage
//! ```
//!
//! Nothing here asks a node, and no document is trusted further than its signatures reach.

use protocol::{
    AgentId, AgreementId, Did, Expect, MeshId, OperationId, Problem, Signed, Timestamp, Usage,
    agreement::{Agreement, Bundle, Reason, Status, Transition, open_active},
    document::{self, Sealed},
    envelope::Envelope,
    error::Code,
    receipt::Receipt,
    succession::{Known, Step},
};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

use crate::{commands::usage, output::fields};

/// What the documents prove.
#[derive(Debug, Serialize)]
pub(crate) struct Verified {
    verified: bool,
    id: AgreementId,
    mesh: MeshId,
    pub(super) status: Status,
    pub(super) reason: Option<Reason>,
    provider: Did,
    consumer: Did,
    signers: Vec<Did>,
    agent: AgentId,
    methods: Vec<String>,
    limits: String,
    issued_at: Timestamp,
    expires_at: Timestamp,
    transitions: Vec<Transition>,
    receipt: Option<Stated>,
    /// The number of the newest receipt that both signed.
    pub(super) acknowledged: u64,
    /// By which keys the parties went on, as these documents say.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    successions: Vec<Step>,
}

impl Verified {
    /// What was used in all, what of it passed limits, and what that costs; nothing where there is no receipt.
    pub(super) fn totals(&self) -> (Usage, Usage, Option<Decimal>) {
        let said = self.receipt.as_ref();
        said.map(|said| (said.used, said.overage, Some(said.price))).unwrap_or_default()
    }
}

/// What the provider stated last.
#[derive(Debug, Serialize)]
struct Stated {
    signed_by: Vec<Did>,
    number: u64,
    at: Timestamp,
    operation: OperationId,
    used: Usage,
    overage: Usage,
    price: Decimal,
    currency: String,
    trace: protocol::receipt::Position,
}

/// Verifies everything in `bundle`; `now` only tells whether the agreement's time is over.
pub(crate) fn verify(bundle: Bundle, now: Timestamp) -> Result<Verified, Problem> {
    verify_knowing(bundle, now, &mut Known::default())
}

/// The same beside documents from which some lineages are `known`, and learns those of the bundle.
pub(super) fn verify_knowing(bundle: Bundle, now: Timestamp, known: &mut Known) -> Result<Verified, Problem> {
    let mesh = mesh(bundle.agreement.envelope())?;
    let expect = Expect::archived(&mesh);
    let signed = open_active(bundle.agreement, expect)?;
    known.hear(&signed)?;
    let terms = signed.document().clone();
    let mut steps = Vec::with_capacity(bundle.transitions.len());
    let mut progress = Progress { status: Status::Active, reason: None, by: None };
    let mut transitions = Vec::with_capacity(bundle.transitions.len());
    for (number, sealed) in (1u64..).zip(bundle.transitions) {
        let transition = sealed.open(expect)?;
        let of = |problem: String| Problem::new(Code::IllegalTransition, format!("transition {number} of {}: {problem}", terms.id));
        transition.require(transition.document().by)?;
        known.hear(&transition)?;
        progress.apply(&terms, number, transition.document()).map_err(of)?;
        transitions.push(transition.document().clone());
        steps.push(transition);
    }
    let opened = receipts((bundle.receipt, bundle.countersigned), &terms, expect)?;
    opened.iter().flatten().try_for_each(|receipt| known.hear(receipt))?;
    // Each of them before all that they say together: which keys were succeeded, and when.
    known.check(&signed)?;
    steps.iter().try_for_each(|step| known.check(step))?;
    opened.iter().flatten().try_for_each(|receipt| known.check(receipt))?;
    let (receipt, acknowledged) = stated(&opened, &terms);
    if progress.status != Status::Closed && now >= terms.header.expires_at {
        progress = Progress { status: Status::Closed, reason: Some(Reason::Expired), by: None };
    }
    Ok(Verified {
        verified: true,
        id: terms.id,
        mesh: mesh.clone(),
        status: progress.status,
        reason: progress.reason,
        provider: terms.provider,
        consumer: terms.consumer,
        signers: signed.signers().to_vec(),
        agent: terms.agent,
        limits: super::limits(&terms.limits),
        issued_at: terms.header.issued_at,
        expires_at: terms.header.expires_at,
        methods: terms.methods,
        transitions,
        receipt,
        acknowledged,
        successions: known.iter().flat_map(|lineage| lineage.steps()).copied().collect(),
    })
}

/// The mesh that a document names whose signatures verify: offline there is no other to hold it against, and everything else
/// must be of the same.
pub(crate) fn mesh(envelope: &Envelope) -> Result<MeshId, Problem> {
    #[derive(Deserialize)]
    struct Outline {
        header: Named,
    }
    #[derive(Deserialize)]
    struct Named {
        mesh: MeshId,
    }
    let (payload, _) = envelope.verify().map_err(document::Error::from)?;
    let outline: Result<Outline, _> = serde_json::from_slice(&payload);
    let outline = outline.map_err(|error| Problem::new(Code::MalformedDocument, format!("the document can't be read: {error}")))?;
    Ok(outline.header.mesh)
}

/// Where the agreement stands while its transitions are replayed.
#[derive(Debug)]
struct Progress {
    status: Status,
    reason: Option<Reason>,
    by: Option<Did>,
}

impl Progress {
    /// Takes the next step, if this party may make it. Active terms are signed by both, so no step leads back to proposed.
    fn apply(&mut self, terms: &Agreement, number: u64, step: &Transition) -> Result<(), String> {
        if step.agreement != terms.id {
            return Err(format!("is of {}", step.agreement));
        }
        if step.by != terms.provider && step.by != terms.consumer {
            return Err(format!("{} is not a party", step.by));
        }
        if step.sequence != number {
            return Err(format!("is numbered {}", step.sequence));
        }
        // Terms that were a proposal when they were closed can be signed by both as well: the two crossed.
        let declined = number == 1 && step.from == Status::Proposed && step.to == Status::Closed;
        if step.from != self.status && !declined {
            return Err(format!("starts from {}, but the agreement was {}", step.from, self.status));
        }
        let legal = match (step.from, step.to) {
            (Status::Active, Status::Suspended) => true,
            // Only who suspended may resume.
            (Status::Suspended, Status::Active) => self.by == Some(step.by),
            (Status::Closed, Status::Closed) => false,
            // What is active can't be declined any more.
            (from, Status::Closed) => step.reason != Some(Reason::Rejected) || (from == Status::Proposed && step.by == terms.provider),
            _ => false,
        };
        if !legal {
            return Err(format!("{} may not take it from {} to {}", step.by, step.from, step.to));
        }
        if (step.to == Status::Closed) != step.reason.is_some() {
            return Err("a reason belongs to closing, and to nothing else".into());
        }
        let at = step.header.issued_at;
        if at < terms.header.expires_at && step.reason == Some(Reason::Expired) {
            return Err(format!("expired at {at}, before its end"));
        }
        *self = Self { status: step.to, reason: step.reason, by: Some(step.by) };
        Ok(())
    }
}

/// Opens a receipt and holds it against the terms it claims to be under.
fn receipt(sealed: Sealed<Receipt>, terms: &Agreement, expect: Expect<'_>) -> Result<Signed<Receipt>, Problem> {
    let signed: Signed<Receipt> = sealed.open(expect)?;
    signed.require(terms.provider)?;
    let receipt = signed.document();
    receipt.check(terms).map_err(|why| Problem::new(Code::ProofFailed, format!("the receipt for {} {why}", receipt.operation)))?;
    Ok(signed)
}

/// Opens both receipts of a bundle: what the provider signed last, and the last that the consumer signed too, which may be
/// the same.
fn receipts(
    bundle: (Option<Sealed<Receipt>>, Option<Sealed<Receipt>>),
    terms: &Agreement,
    expect: Expect<'_>,
) -> Result<[Option<Signed<Receipt>>; 2], Problem> {
    let open = |sealed: Option<Sealed<Receipt>>| sealed.map(|sealed| receipt(sealed, terms, expect)).transpose();
    let (newest, countersigned) = (open(bundle.0)?, open(bundle.1)?);
    if let Some(countersigned) = &countersigned {
        countersigned.require(terms.consumer)?;
        let wrong = |why: String| Problem::new(Code::ProofFailed, format!("the receipts: {why}"));
        let newest = newest.as_ref().ok_or_else(|| wrong("there is one that both signed, and not the newest".into()))?.document();
        newest.check_beside(countersigned.document()).map_err(wrong)?;
        if newest.sequence < countersigned.document().sequence {
            return Err(wrong("the one that both signed is newer than the newest".into()));
        }
    }
    Ok([newest, countersigned])
}

/// What the newest one says, and up to which number both have signed.
fn stated([newest, countersigned]: &[Option<Signed<Receipt>>; 2], terms: &Agreement) -> (Option<Stated>, u64) {
    let both = |signed: &&Signed<Receipt>| signed.require(terms.consumer).is_ok();
    let acknowledged = newest.iter().chain(countersigned).filter(both).map(|signed| signed.document().sequence).max();
    (newest.as_ref().map(Stated::of), acknowledged.unwrap_or_default())
}

impl Stated {
    fn of(signed: &Signed<Receipt>) -> Self {
        let receipt = signed.document();
        Self {
            signed_by: signed.signers().to_vec(),
            number: receipt.sequence,
            at: receipt.header.issued_at,
            operation: receipt.operation,
            used: receipt.total,
            overage: receipt.overage,
            price: receipt.price,
            currency: receipt.currency.clone(),
            trace: receipt.trace,
        }
    }
}

/// The findings, for a person.
pub(crate) fn describe(found: &Verified) -> String {
    let signed = |party: &Did| format!("{party} (signed)");
    let step = |step: &Transition| format!("{} -> {} by {} at {}", step.from, step.to, step.by, step.header.issued_at);
    let steps: Vec<String> = found.transitions.iter().map(step).collect();
    let receipt = found.receipt.as_ref();
    let text = fields([
        ("agreement", found.id.to_string()),
        ("verified", "every signature, transition and receipt".into()),
        ("mesh", found.mesh.to_string()),
        ("status", super::status(&found.status.to_string(), found.reason)),
        ("provider", signed(&found.provider)),
        ("consumer", signed(&found.consumer)),
        ("agent", found.agent.to_string()),
        ("methods", super::names(found.methods.iter().map(String::as_str), "all")),
        ("limits", found.limits.clone()),
        ("valid", format!("{} to {}", found.issued_at, found.expires_at)),
        ("used", receipt.map_or_else(|| "no receipt".into(), |stated| usage(&stated.used))),
        ("costs", receipt.map_or_else(String::new, |stated| format!("{} {}", stated.price, stated.currency))),
        (
            "receipt",
            receipt.map_or_else(String::new, |stated| {
                let signers: Vec<String> = stated.signed_by.iter().map(ToString::to_string).collect();
                format!("number {}, {} at {}, signed by {}", stated.number, stated.operation, stated.at, signers.join(" and "))
            }),
        ),
        ("by both", if found.acknowledged == 0 { "nothing yet".into() } else { format!("up to number {}", found.acknowledged) }),
    ]);
    let keys = found.successions.iter().map(|Step { from, to, at }| format!("the key {from} was succeeded by {to} at {at}"));
    steps.into_iter().chain(keys).fold(text, |text, step| format!("{text}  {step}\n"))
}

#[cfg(test)]
mod tests;
