//! What a provider takes as the consumer's signature under a receipt.

use protocol::{Code, Expect, Problem, Signed, agreement::Agreement, document::Sealed, receipt::Receipt};

/// Opens a receipt that both parties of `terms` have signed. A consumer can change nothing in it, as the provider's own signature is
/// required too.
///
/// # Errors
/// A signature is missing or wrong, or the receipt isn't one under these terms.
pub fn acknowledged(sealed: Sealed<Receipt>, terms: &Agreement) -> Result<Signed<Receipt>, Problem> {
    let signed = sealed.open(Expect::archived(&terms.header.mesh))?;
    signed.require(terms.provider)?;
    signed.require(terms.consumer)?;
    let wrong = |why| Problem::new(Code::ProofFailed, format!("the acknowledged receipt {why}"));
    signed.document().check(terms).map_err(wrong)?;
    Ok(signed)
}
