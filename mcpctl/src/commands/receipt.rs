//! `receipt`: what a provider signed for a call, verified without any node.

use std::path::PathBuf;

use protocol::{
    Did, Expect, Problem, Signed,
    agreement::{Agreement, Bundle},
    document::Sealed,
    error::Code,
    receipt::Receipt,
    statement::Statement,
};
use serde::{Deserialize, Serialize};

use super::{agreement::verify::mesh, usage};
use crate::{
    error::Result,
    input,
    output::{Output, fields},
};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Verify a receipt offline: its signatures, and that it holds under the agreement it is of
    Verify {
        /// A receipt, what 'agent execute --json' printed, a statement or an agreement's bundle; '-' for stdin
        file: PathBuf,
        /// Its agreement, as 'agreement show -o FILE' or 'agreement statement' wrote it: terms and price are verified too
        #[arg(long, value_name = "FILE")]
        agreement: Option<PathBuf>,
    },
}

/// Where a receipt may stand.
#[derive(Deserialize)]
#[serde(untagged)]
enum Found {
    Answer { receipt: Sealed<Receipt> },
    Shown { bundle: Bundle },
    Bundle(Bundle),
    Document(Sealed<Receipt>),
}

impl Found {
    /// The receipt, and the terms where they stand beside it.
    fn parts(self) -> Result<(Sealed<Receipt>, Option<Sealed<Agreement>>), Problem> {
        let bundle = match self {
            Self::Answer { receipt } => return Ok((receipt, None)),
            Self::Document(sealed) if sealed.envelope().payload_type != <Statement as protocol::Document>::payload_type() => {
                return Ok((sealed, None));
            }
            Self::Document(sealed) => {
                let sealed = Sealed::<Statement>::from(sealed.envelope().clone());
                let mesh = mesh(sealed.envelope())?;
                sealed.open(Expect::archived(&mesh))?.document().bundle.clone()
            }
            Self::Shown { bundle } | Self::Bundle(bundle) => bundle,
        };
        let none = || Problem::new(Code::NotFound, "there is no receipt in it");
        Ok((bundle.receipt.ok_or_else(none)?, Some(bundle.agreement)))
    }
}

/// What a receipt proves.
#[derive(Debug, Serialize)]
pub(crate) struct Verified {
    verified: bool,
    signers: Vec<Did>,
    /// Whether it was held against the terms of its agreement.
    terms: bool,
    receipt: Receipt,
}

pub(crate) fn run(command: Command, output: Output) -> Result {
    let Command::Verify { file, agreement } = command;
    let (receipt, beside) = input::document::<Found>(&file, "a receipt, or an answer that has one")?.parts()?;
    let terms = match agreement {
        Some(file) => input::document::<Found>(&file, "an agreement")?.terms()?,
        None => beside,
    };
    output.show(&verify(receipt, terms)?, describe)
}

impl Found {
    fn terms(self) -> Result<Option<Sealed<Agreement>>, Problem> {
        match self {
            Self::Shown { bundle } | Self::Bundle(bundle) => Ok(Some(bundle.agreement)),
            other => Ok(other.parts()?.1),
        }
    }
}

/// Verifies a receipt, under `terms` where they are known.
fn verify(sealed: Sealed<Receipt>, terms: Option<Sealed<Agreement>>) -> Result<Verified, Problem> {
    let mesh = mesh(sealed.envelope())?;
    let signed: Signed<Receipt> = sealed.open(Expect::archived(&mesh))?;
    let receipt = signed.document();
    signed.require(receipt.provider)?;
    let held = terms.is_some();
    if let Some(terms) = terms {
        let terms = protocol::agreement::open_active(terms, Expect::archived(&mesh))?;
        let mut known = protocol::succession::Known::default();
        known.hear(&terms)?;
        known.hear(&signed)?;
        known.check(&terms)?;
        known.check(&signed)?;
        let wrong = |why: String| Problem::new(Code::ProofFailed, format!("the receipt for {} {why}", receipt.operation));
        receipt.check(terms.document()).map_err(wrong)?;
        let parties = [terms.document().provider, terms.document().consumer];
        if let Some(stranger) = signed.signers().iter().find(|signer| !parties.contains(signer)) {
            return Err(wrong(format!("is signed by {stranger}, who is no party")));
        }
    }
    Ok(Verified { verified: true, signers: signed.signers().to_vec(), terms: held, receipt: receipt.clone() })
}

fn describe(found: &Verified) -> String {
    let Verified { signers, terms, receipt, .. } = found;
    let signers: Vec<String> = signers.iter().map(ToString::to_string).collect();
    fields([
        ("receipt", format!("number {} of {}", receipt.sequence, receipt.agreement)),
        (
            "verified",
            if *terms { "its signatures, and under its agreement" } else { "its signatures; name '--agreement FILE' for its terms" }.into(),
        ),
        ("signed by", signers.join(" and ")),
        ("at", receipt.header.issued_at.to_string()),
        ("operation", receipt.operation.to_string()),
        ("method", format!("{} of {}", receipt.method, receipt.agent)),
        ("params", receipt.params.to_string()),
        ("result", receipt.result.to_string()),
        ("used", usage(&receipt.usage)),
        ("in all", usage(&receipt.total)),
        ("overage", usage(&receipt.overage)),
        ("costs", format!("{} {} in all", receipt.price, receipt.currency)),
        ("trace", format!("entry {} of {}", receipt.trace.index, receipt.trace.log)),
    ])
}
