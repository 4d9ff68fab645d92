//! What agreements look like from outside: lists, states, prices.

use protocol::{
    Code, Problem, Timestamp, Usage,
    agreement::{Agreement, Bundle},
    api::{AgreementOutline, AgreementState},
};
use rust_decimal::Decimal;
use store::Kind;

use super::{Agreements, Contract, steps::Untold};
use crate::node::journal;

impl Agreements {
    /// Every agreement, the newest last.
    pub(crate) async fn list(&self) -> Result<Vec<AgreementOutline>, Problem> {
        let now = Timestamp::now();
        let mut items = Vec::new();
        // A damaged one is named in the log and by 'store verify'; the others are listed all the same.
        for (_, bytes) in journal::sound_records(self.journal.store().as_ref(), Kind::Agreement).await?.records {
            let contract = self.restored(&bytes).await?;
            let id = contract.id;
            let terms = contract.terms();
            let provides = terms.provider == self.owner;
            items.push(AgreementOutline {
                id,
                status: contract.status(now),
                side: side(provides),
                counterparty: if provides { terms.consumer } else { terms.provider },
                agent: terms.agent,
                expires_at: terms.header.expires_at,
                calls: contract.used(provides).calls,
                departed: contract.departed(),
            });
        }
        Ok(items)
    }

    /// All that there is to tell of one.
    pub(crate) fn show(&self, contract: &Contract) -> Result<AgreementState, Problem> {
        let now = Timestamp::now();
        let terms = contract.terms();
        let provides = terms.provider == self.owner;
        let standing = contract.standing.lock();
        let (used, overage) = standing.used_in_all(provides);
        Ok(AgreementState {
            status: standing.status(now),
            reason: standing.state.reason(&terms, now),
            side: side(provides),
            used,
            price: priced(&terms, &used, &overage)?,
            dispute: standing.dispute.clone(),
            wanted: standing.wanted(&terms, now).cloned(),
            untold: standing.untold == Some(Untold::Taken) && standing.closing.is_none(),
            left_open: None,
            closing: standing.closing.clone(),
            departed: standing.departed,
            bundle: Bundle {
                agreement: standing.signed.clone().into(),
                transitions: standing.transitions.clone(),
                receipt: standing.receipt.clone().map(Into::into),
                countersigned: None,
            },
            terms,
        })
    }
}

/// The price of what was used under `terms`. Terms are only agreed on if all that they allow has one.
pub(crate) fn priced(terms: &Agreement, total: &Usage, overage: &Usage) -> Result<Decimal, Problem> {
    let inexpressible = || Problem::new(Code::Conflict, format!("the price of what agreement {} has used can't be expressed", terms.id));
    terms.pricing.price(total, overage).ok_or_else(inexpressible)
}

fn side(provides: bool) -> String {
    if provides { "provider" } else { "consumer" }.into()
}
