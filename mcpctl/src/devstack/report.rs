//! What came of it.

use protocol::{
    AgreementId, Did, OperationId, Usage,
    agreement::{Limit, Status},
    api::AgreementState,
};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

use super::stack::{Mesh, Running};
use crate::output::{fields, table};

/// The document that `--json` prints. Whatever didn't hold would have ended the command before it.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) nodes: Vec<Running>,
    pub(super) discovered_ms: u64,
    pub(super) agreement: Agreed,
    pub(super) indexed: usize,
    pub(super) skipped: usize,
    pub(super) query: String,
    pub(super) results: Vec<Hit>,
    pub(super) usage: Used,
    pub(super) receipt_verified: bool,
    pub(super) agreement_verified: bool,
    pub(super) trace_verified: bool,
    pub(super) elapsed_ms: u64,
}

/// The agreement in short.
#[derive(Debug, Serialize)]
pub(super) struct Agreed {
    id: AgreementId,
    status: Status,
    template: String,
    provider: Did,
    consumer: Did,
    limits: Vec<Limit>,
    signers: usize,
}

impl Agreed {
    pub(super) fn new(state: &AgreementState) -> Self {
        let terms = &state.terms;
        Self {
            id: terms.id,
            status: state.status,
            template: terms.template.clone(),
            provider: terms.provider,
            consumer: terms.consumer,
            limits: terms.limits.clone(),
            signers: state.bundle.agreement.envelope().signatures.len(),
        }
    }
}

/// One hit of the search.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Hit {
    path: String,
    #[serde(default)]
    title: String,
    score: f64,
    snippet: String,
}

/// What the last receipt says was used.
#[derive(Debug, Serialize)]
pub(super) struct Used {
    #[serde(flatten)]
    pub(super) total: Usage,
    pub(super) price: Decimal,
    pub(super) currency: String,
    /// The search, by which its receipt and its trace entry are found.
    pub(super) operation: OperationId,
}

/// For people.
pub(super) fn describe(report: &Report) -> String {
    let hits = report.results.iter().map(|hit| [hit.path.clone(), format!("{:.2}", hit.score), hit.snippet.chars().take(90).collect()]);
    let used = &report.usage;
    let verified = |holds: bool| if holds { "verified" } else { "NOT verified" };
    format!(
        "\nsearch '{}' over {} documents\n{}\n{}",
        report.query,
        report.indexed,
        table(["document", "score", "text"], hits),
        fields([
            (
                "usage",
                format!(
                    "{} calls, {:.1} M fuel, {:.1} ms in the sandbox, {} bytes out",
                    used.total.calls,
                    used.total.fuel as f64 / 1e6,
                    used.total.wall_us as f64 / 1e3,
                    used.total.egress_bytes
                )
            ),
            ("price", format!("{} {}", used.price, used.currency)),
            ("receipt", format!("{}: the provider's signature, {} calls counted", verified(report.receipt_verified), used.total.calls)),
            (
                "agreement",
                format!("{}: {} signatures, {}", verified(report.agreement_verified), report.agreement.signers, report.agreement.status)
            ),
            ("trace", format!("{}: {} is in the provider's signed log", verified(report.trace_verified), used.operation)),
            ("elapsed", format!("{:.1} s", report.elapsed_ms as f64 / 1e3)),
        ])
    )
}

/// What to try next, with everything filled in.
pub(super) fn next(mesh: &Mesh) -> String {
    let (a, b) = (mesh.consumer().client.socket().display(), mesh.provider().client.socket().display());
    let (url, secret) = (&mesh.gateway.url, &mesh.gateway.key.secret);
    format!(
        "
The mesh is up. Try, in another terminal:
  mcpctl --socket {a} discover docs.search
  mcpctl --socket {a} agreement list
  mcpctl --socket {a} peers list
  mcpctl --socket {b} agent execute docs search '{{\"query\":\"signed receipt\"}}'
  mcpctl --socket {b} trace verify
  curl -H 'Authorization: Bearer {secret}' {url}/v1/status
Ctrl-C stops it and leaves nothing behind."
    )
}
