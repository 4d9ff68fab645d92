//! What `agreement show --json` prints, and what `agreement show -o` writes: a bundle of signed documents, and beside it what
//! the node made of them. What follows from the documents is compared with them, and the rest is named.

use protocol::{
    Problem, SignedDuration, Timestamp, Usage,
    agreement::{Agreement, Bundle, Reason, Status},
    statement::Closing,
};
use rust_decimal::Decimal;

use super::{statement, verify};
use crate::{
    beside::{Members, Remarked},
    commands::receipt,
};

/// Verifies a bundle, alone or as it is shown; `now` only tells whether the agreement's time is over.
pub(super) fn verify(mut members: Members, now: Timestamp) -> Result<Remarked<verify::Verified>, Problem> {
    let Some(bundle) = members.take::<Bundle>("bundle")? else {
        let bundle = receipt::bundle(&mut members)?;
        return Ok(Remarked { found: verify::verify(bundle, now)?, remarks: members.remarks() });
    };
    let found = verify::verify(bundle.clone(), now)?;
    compare(&mut members, &bundle, &found, now)?;
    Ok(Remarked { found, remarks: members.remarks() })
}

fn compare(members: &mut Members, bundle: &Bundle, found: &verify::Verified, now: Timestamp) -> Result<(), Problem> {
    let terms = statement::terms(bundle)?;
    // It may have been shown before the agreement's time was over.
    let before = terms.header.expires_at.saturating_sub(SignedDuration::from_millis(1)).unwrap_or(now);
    let then = verify::verify(bundle.clone(), before.min(now))?;
    let either = |signed: [String; 2]| if signed[0] == signed[1] { signed[0].clone() } else { signed.join(" or ") };
    members.compare_with("status", |stated: &Status| {
        let known = [found.status, then.status];
        if known.contains(stated) { Ok(()) } else { Err(either(known.map(|status| status.to_string()))) }
    })?;
    members.compare_with("reason", |stated: &Reason| {
        let known = [found.reason, then.reason];
        let text = |reason: Option<Reason>| reason.map_or_else(|| "none".into(), |reason| reason.to_string());
        if known.contains(&Some(*stated)) { Ok(()) } else { Err(either(known.map(text))) }
    })?;
    members.compare::<Agreement>("terms", &terms)?;
    if found.receipt.is_some() {
        let (total, _, price) = found.totals();
        members.compare::<Usage>("used", &total)?;
        members.compare::<Decimal>("price", &price.unwrap_or_default())?;
    }
    members.compare_with("closing", |stated: &Closing| {
        statement::closes(stated, found, now).map_err(|what| format!("otherwise: it {what}"))
    })?;
    Ok(())
}
