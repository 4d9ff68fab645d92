//! `receipt`: what a provider signed for a call, verified without any node.
//!
//! Beside a receipt, in what `agent execute --json` prints, stand result, usage and operation: they are compared with it.

use std::path::{Path, PathBuf};

use protocol::{
    Did, Digest, Envelope, Expect, Problem, Signed,
    agreement::{Agreement, Bundle},
    document::Sealed,
    error::Code,
    receipt::Receipt,
    statement::Statement,
};
use serde::Serialize;

use super::{agreement::verify::mesh, usage};
use crate::{
    beside::{Members, Remarked, Remarks, compact},
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

/// A file in which a receipt may stand, or the terms of one.
struct Found {
    receipt: Option<Sealed<Receipt>>,
    /// The terms, where they stand beside it.
    terms: Option<Sealed<Agreement>>,
    /// What else the file has.
    beside: Members,
}

impl Found {
    fn read(file: &Path, kind: &'static str) -> Result<Self, Problem> {
        let mut beside = Members::read(&input::read(file, input::MAX_DOCUMENT)?, kind)?;
        if beside.has("payload") {
            let envelope = envelope(&mut beside)?;
            if envelope.payload_type == <Statement as protocol::Document>::payload_type() {
                let mesh = mesh(&envelope)?;
                let statement: Signed<Statement> = Sealed::from(envelope).open(Expect::archived(&mesh))?;
                return Ok(Self::of(statement.document().bundle.clone(), beside));
            }
            return Ok(Self { receipt: Some(envelope.into()), terms: None, beside });
        }
        if let Some(bundle) = beside.take::<Bundle>("bundle")? {
            return Ok(Self::of(bundle, beside));
        }
        if beside.has("agreement") {
            return Ok(Self::of(bundle(&mut beside)?, beside));
        }
        Ok(Self { receipt: beside.take("receipt")?, terms: None, beside })
    }

    fn of(bundle: Bundle, beside: Members) -> Self {
        Self { receipt: bundle.receipt, terms: Some(bundle.agreement), beside }
    }
}

/// An envelope, out of the members of a file.
pub(super) fn envelope(members: &mut Members) -> Result<Envelope, Problem> {
    members.document(&["payloadType", "payload", "signatures"])
}

/// A bundle, out of the members of a file.
pub(super) fn bundle(members: &mut Members) -> Result<Bundle, Problem> {
    members.document(&["agreement", "transitions", "receipt", "countersigned"])
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
    let Found { receipt, terms: along, beside } = Found::read(&file, "a receipt, or an answer that has one")?;
    let receipt = receipt.ok_or_else(|| Problem::new(Code::NotFound, "there is no receipt in it"))?;
    let terms = match agreement {
        Some(file) => Found::read(&file, "an agreement")?.terms,
        None => along,
    };
    output.show(&verify(receipt, terms, beside)?, |found| found.describe(describe))
}

/// Compares what an answer says beside its receipt with what is signed.
fn compare(receipt: &Receipt, mut beside: Members) -> Result<Remarks, Problem> {
    // As it came, or as something made it readable: white space between tokens has no meaning.
    let signed = |text: &str| [text, &compact(text)].into_iter().any(|text| Digest::sha256(text.as_bytes()) == receipt.result);
    beside.compare_bytes("result", signed)?;
    beside.compare("usage", &receipt.usage)?;
    beside.compare("operation", &receipt.operation)?;
    Ok(beside.remarks())
}

/// Verifies a receipt, under `terms` where they are known.
fn verify(sealed: Sealed<Receipt>, terms: Option<Sealed<Agreement>>, beside: Members) -> Result<Remarked<Verified>, Problem> {
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
    let remarks = compare(receipt, beside)?;
    let found = Verified { verified: true, signers: signed.signers().to_vec(), terms: held, receipt: receipt.clone() };
    Ok(Remarked { found, remarks })
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
