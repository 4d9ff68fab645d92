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
    lifecycle::{self, State},
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
    /// When it was closed by a party, or ends by itself.
    #[serde(skip)]
    pub(super) closed_at: Timestamp,
    /// What the provider signed last.
    pub(super) receipt: Option<Stated>,
    /// What both signed last, which may be the same.
    pub(super) by_both: Option<Stated>,
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

/// What a receipt states.
#[derive(Debug, Serialize)]
pub(super) struct Stated {
    signed_by: Vec<Did>,
    pub(super) number: u64,
    at: Timestamp,
    operation: OperationId,
    pub(super) used: Usage,
    pub(super) overage: Usage,
    pub(super) price: Decimal,
    pub(super) currency: String,
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
    let mut state = State::of(&signed).map_err(Problem::from)?;
    let mut steps = Vec::with_capacity(bundle.transitions.len());
    for (number, sealed) in (1u64..).zip(bundle.transitions) {
        let transition = sealed.open(expect)?;
        // Judged by the time that it claims, as its parties did.
        state.apply(&terms, &transition, transition.document().header.issued_at).map_err(|error| {
            let code = if let lifecycle::Error::Document(_) = error { error.code() } else { Code::IllegalTransition };
            Problem::new(code, format!("transition {number} of {}: {error}", terms.id))
        })?;
        known.hear(&transition)?;
        steps.push(transition);
    }
    let opened = receipts((bundle.receipt, bundle.countersigned), &terms, expect)?;
    opened.iter().flatten().try_for_each(|receipt| known.hear(receipt))?;
    // Each of them before all that they say together: which keys were succeeded, and when.
    known.check(&signed)?;
    steps.iter().try_for_each(|step| known.check(step))?;
    opened.iter().flatten().try_for_each(|receipt| known.check(receipt))?;
    let (receipt, by_both) = stated(&opened, &terms);
    let transitions: Vec<_> = steps.iter().map(|step| step.document().clone()).collect();
    let closed = transitions.last().filter(|last: &&Transition| last.to == Status::Closed);
    Ok(Verified {
        verified: true,
        id: terms.id,
        mesh: mesh.clone(),
        status: state.effective(&terms, now),
        reason: state.reason(&terms, now),
        closed_at: closed.map_or(terms.header.expires_at, |last| last.header.issued_at),
        provider: terms.provider,
        consumer: terms.consumer,
        signers: signed.signers().to_vec(),
        agent: terms.agent,
        limits: super::limits(&terms.limits),
        issued_at: terms.header.issued_at,
        expires_at: terms.header.expires_at,
        methods: terms.methods,
        transitions,
        acknowledged: by_both.as_ref().map_or(0, |stated| stated.number),
        receipt,
        by_both,
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
        newest.check_beside(countersigned.document(), terms).map_err(wrong)?;
        if newest.sequence < countersigned.document().sequence {
            return Err(wrong("the one that both signed is newer than the newest".into()));
        }
    }
    Ok([newest, countersigned])
}

/// What the newest one says, and the newest of those that both have signed.
fn stated([newest, countersigned]: &[Option<Signed<Receipt>>; 2], terms: &Agreement) -> (Option<Stated>, Option<Stated>) {
    let both = |signed: &&Signed<Receipt>| signed.require(terms.consumer).is_ok();
    let by_both = newest.iter().chain(countersigned).filter(both).max_by_key(|signed| signed.document().sequence);
    (newest.as_ref().map(Stated::of), by_both.map(Stated::of))
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
        ("by both", by_both(found)),
    ]);
    let keys = found.successions.iter().map(|Step { from, to, at }| format!("the key {from} was succeeded by {to} at {at}"));
    steps.into_iter().chain(keys).fold(text, |text, step| format!("{text}  {step}\n"))
}

/// What receipts prove, and what they can't.
pub(super) fn meaning(found: &Verified) -> String {
    let Some(newest) = &found.receipt else { return String::new() };
    let both = match found.acknowledged {
        0 => "The consumer has signed none of them.".into(),
        signed if signed == newest.number => "The consumer has signed the same.".into(),
        signed => format!("The consumer has signed the same up to call {signed}; what comes after it the provider alone has signed."),
    };
    format!(
        "\nProven: the provider has signed that calls 1 to {} ran and what they used. {both} The totals are possible under the terms: \
         each call within its grant, each window within its cap, each price by the terms.\n\
         Not proven: what a call used within its grant. The provider alone measures that, and no document can show it.\n",
        newest.number
    )
}

/// Up to where both have signed, and what that comes to where the provider has stated more since.
fn by_both(found: &Verified) -> String {
    let Some(both) = &found.by_both else { return "nothing yet".into() };
    let up_to = format!("up to number {}", both.number);
    match found.receipt.as_ref().filter(|newest| newest.number > both.number) {
        None => up_to,
        Some(newest) => {
            let beyond = newest.number - both.number;
            let Stated { used, price, currency, .. } = both;
            format!("{up_to} ({}, {price} {currency}); {beyond} calls beyond it by the provider alone", usage(used))
        }
    }
}

#[cfg(test)]
mod tests;
