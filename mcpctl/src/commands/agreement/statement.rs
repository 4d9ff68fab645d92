//! `agreement statement` and `agreement usage`: what an agreement comes to, as one side can show it.
//!
//! ```text
//! statement ── signed by the party that states it
//!   └─ bundle ── verified as any bundle ─> totals, price, and up to where both signed: as stated
//!        └─ closing ── on the newest receipt of both signatures, after the end
//! ```

use std::path::PathBuf;

use protocol::{
    AgreementId, Client, Did, Expect, Problem, Signed, Timestamp, Usage,
    agreement::{Agreement, Bundle, Status},
    api::{AgreementUsage, LimitState},
    document::{MAX_SKEW, Sealed},
    error::Code,
    statement::{Closing, Statement},
    succession::Known,
};
use rust_decimal::Decimal;
use serde::Serialize;

use super::verify;
use crate::{
    commands::usage as used,
    error::Result,
    input,
    output::{Output, fields},
};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The agreement
    id: AgreementId,
    /// Write the statement to FILE
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Asks the daemon for a statement, and verifies it before it is given to anybody.
pub(crate) async fn run(arguments: Arguments, client: &Client, output: Output) -> Result {
    let sealed: Sealed<Statement> = client.get(&format!("/v1/agreements/{}/statement", arguments.id)).await?;
    let verified = verify(sealed.clone(), Timestamp::now())?;
    if let Some(file) = &arguments.out {
        let mut bytes = serde_json::to_vec_pretty(&sealed).map_err(anyhow::Error::from)?;
        bytes.push(b'\n');
        input::write(file, &bytes)?;
        return output.show(&verified, describe);
    }
    // What a program reads without a file is the document itself.
    output.show(&sealed, |_| describe(&verified))
}

/// What a statement proves.
#[derive(Debug, Serialize)]
pub(crate) struct Verified {
    stated_by: Did,
    stated_at: Timestamp,
    total: Usage,
    overage: Usage,
    price: Decimal,
    currency: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    closing: Option<Closing>,
    #[serde(flatten)]
    bundle: verify::Verified,
}

/// Verifies a statement, and that it says what the documents in it prove; `now` only tells whether the agreement's time is over.
pub(crate) fn verify(sealed: Sealed<Statement>, now: Timestamp) -> Result<Verified, Problem> {
    let mesh = verify::mesh(sealed.envelope())?;
    let signed: Signed<Statement> = sealed.open(Expect::archived(&mesh))?;
    let stated = signed.document();
    signed.require(stated.by)?;
    let wrong = |what: &str| Err(Problem::new(Code::ProofFailed, format!("the statement about {} {what}", stated.agreement)));
    let terms = terms(&stated.bundle)?;
    if terms.id != stated.agreement || terms.header.mesh != mesh {
        return wrong("holds another agreement");
    }
    if stated.by != terms.provider && stated.by != terms.consumer {
        return wrong("is not by a party");
    }
    let mut known = Known::default();
    known.hear(&signed)?;
    let then = verify::verify_knowing(stated.bundle.clone(), stated.header.issued_at, &mut known)?;
    known.check(&signed)?;
    if (then.status, then.reason) != (stated.status, stated.reason) {
        return wrong(&format!("says {}, its transitions say {}", stated.status, then.status));
    }
    let (total, overage, price) = then.totals();
    if (total, overage, then.acknowledged) != (stated.total, stated.overage, stated.acknowledged) {
        return wrong("says other totals than its receipts");
    }
    if price.unwrap_or_default() != stated.price || stated.currency != terms.pricing.currency {
        return wrong("says another price than its receipts");
    }
    if let Some(closing) = &stated.closing
        && let Err(what) = closes(closing, &then, stated.header.issued_at)
    {
        return wrong(what);
    }
    Ok(Verified {
        stated_by: stated.by,
        stated_at: stated.header.issued_at,
        total,
        overage,
        price: stated.price,
        currency: stated.currency.clone(),
        closing: stated.closing.clone(),
        bundle: verify::verify_knowing(stated.bundle.clone(), now, &mut known)?,
    })
}

/// Whether the documents of a statement come to the end that it states.
pub(super) fn closes(closing: &Closing, then: &verify::Verified, stated_at: Timestamp) -> Result<(), &'static str> {
    let skewed = |time: Timestamp| time.saturating_add(MAX_SKEW).unwrap_or(Timestamp::MAX);
    if then.status != Status::Closed || skewed(closing.at) < then.closed_at || closing.at > skewed(stated_at) {
        return Err("says that it closed when it hadn't");
    }
    let both = then.by_both.as_ref();
    let (number, total, overage, price) = both.map(|both| (both.number, both.used, both.overage, both.price)).unwrap_or_default();
    if (closing.receipt, closing.total, closing.overage, closing.price) != (number, total, overage, price) {
        return Err("closes on another receipt than the newest of both signatures");
    }
    if closing.unacknowledged != then.receipt.as_ref().map_or(0, |newest| newest.number) - number {
        return Err("counts other calls beyond the receipt that it closed on than its receipts");
    }
    Ok(())
}

/// What an agreement closed on, for a person.
pub(super) fn closed_on(closing: &Closing, currency: &str) -> String {
    let Closing { at, receipt, total, price, unacknowledged, .. } = closing;
    let beyond = match unacknowledged {
        0 => String::new(),
        calls => format!("; {calls} calls beyond it were never acknowledged"),
    };
    match receipt {
        0 => format!("{at}, without a receipt that both signed{beyond}"),
        _ => format!("{at}, on receipt {receipt} of both signatures: {}, {price} {currency}{beyond}", used(total)),
    }
}

pub(super) fn terms(bundle: &Bundle) -> Result<Agreement, Problem> {
    let mesh = verify::mesh(bundle.agreement.envelope())?;
    Ok(bundle.agreement.clone().open(Expect::archived(&mesh))?.document().clone())
}

/// A statement, for a person.
pub(crate) fn describe(found: &Verified) -> String {
    let head = fields([
        ("statement", format!("by {} at {}", found.stated_by, found.stated_at)),
        ("total", used(&found.total)),
        ("overage", used(&found.overage)),
        ("price", format!("{} {}", found.price, found.currency)),
        ("closed", found.closing.as_ref().map_or_else(String::new, |closing| closed_on(closing, &found.currency))),
    ]);
    format!("{head}{}{}", verify::describe(&found.bundle), verify::meaning(&found.bundle))
}

/// Shows what is used and what is left.
pub(crate) async fn usage(id: AgreementId, client: &Client, output: Output) -> Result {
    let usage: AgreementUsage = client.get(&format!("/v1/agreements/{id}/usage")).await?;
    output.show(&usage, |usage| {
        let unsigned = usage.receipt.saturating_sub(usage.acknowledged);
        let source = if usage.side == "provider" { "by this node's count" } else { "as both signed" };
        let head = fields([
            ("agreement", usage.id.to_string()),
            ("status", usage.status.to_string()),
            ("side", usage.side.clone()),
            ("used", format!("{} ({source})", used(&usage.total))),
            ("overage", used(&usage.overage)),
            ("costs", format!("{} {}", usage.price, usage.currency)),
            (
                "receipts",
                format!("{}, of which both signed up to number {} ({unsigned} unacknowledged)", usage.receipt, usage.acknowledged),
            ),
            ("closed", usage.closing.as_ref().map_or_else(String::new, |closing| closed_on(closing, &usage.currency))),
        ]);
        let text = usage.limits.iter().fold(head, |text, limit| format!("{text}  {}\n", describe_limit(limit)));
        text + &claims(usage)
    })
}

/// What the provider says beyond what both have signed.
fn claims(usage: &AgreementUsage) -> String {
    let Some(claimed) = &usage.claimed else {
        let asked = usage.side == "consumer" && usage.closing.is_none();
        return if asked { "the provider could not be asked what it counts\n".into() } else { String::new() };
    };
    let price = claimed.price.map_or_else(|| "a price that can't be expressed".into(), |price| format!("{price} {}", usage.currency));
    let head = format!("the provider claims, unsigned: {}, {price}\n", used(&claimed.total));
    claimed.limits.iter().fold(head, |text, limit| format!("{text}  {}\n", describe_limit(limit)))
}

/// `calls 1000/1d: 12 used, 988 left, resets at …`.
fn describe_limit(state: &LimitState) -> String {
    let LimitState { limit, hard_max, used, left, resets_at } = state;
    let name = format!("{} {}/{}", limit.quantity.as_str(), limit.max, limit.window);
    let counted = match (used, left) {
        (Some(used), Some(left)) => format!("{used} used, {left} left"),
        _ => "not known here".into(),
    };
    let beyond = if *hard_max > limit.max { format!(" (overage up to {hard_max})") } else { String::new() };
    let resets = resets_at.map_or_else(String::new, |at| format!(", resets at {at}"));
    format!("{name}: {counted}{beyond}{resets}")
}

#[cfg(test)]
mod tests;
