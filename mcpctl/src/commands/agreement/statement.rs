//! `agreement statement` and `agreement usage`: what an agreement comes to, as one side can show it.
//!
//! ```text
//! statement ── signed by the party that states it
//!   └─ bundle ── verified as any bundle ─> totals, price, and up to where both signed: as stated
//! ```

use std::path::PathBuf;

use protocol::{
    AgreementId, Client, Did, Expect, Problem, Signed, Timestamp, Usage,
    agreement::{Agreement, Bundle},
    api::{AgreementUsage, LimitState},
    document::Sealed,
    error::Code,
    statement::Statement,
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
    Ok(Verified {
        stated_by: stated.by,
        stated_at: stated.header.issued_at,
        total,
        overage,
        price: stated.price,
        currency: stated.currency.clone(),
        bundle: verify::verify_knowing(stated.bundle.clone(), now, &mut known)?,
    })
}

fn terms(bundle: &Bundle) -> Result<Agreement, Problem> {
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
    ]);
    format!("{head}{}", verify::describe(&found.bundle))
}

/// Shows what is used and what is left.
pub(crate) async fn usage(id: AgreementId, client: &Client, output: Output) -> Result {
    let usage: AgreementUsage = client.get(&format!("/v1/agreements/{id}/usage")).await?;
    output.show(&usage, |usage| {
        let unsigned = usage.receipt.saturating_sub(usage.acknowledged);
        let source = if usage.current { "as the provider counts" } else { "as the newest receipt says: the provider could not be asked" };
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
        ]);
        usage.limits.iter().fold(head, |text, limit| format!("{text}  {}\n", describe_limit(limit)))
    })
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
