//! Components that the node's operator doesn't let run any more.

use protocol::{
    Client, Digest, Problem,
    api::{List, Revocation, Revoke},
    error::Code,
};
use serde::de::IgnoredAny;

use crate::{
    error::Result,
    output::{Output, fields},
};

pub(super) async fn revoke(client: &Client, component: Digest, reason: Option<String>, output: Output) -> Result {
    let revocation: Revocation = client.put(&path(&component), &Revoke { reason }).await?;
    output.show(&revocation, |revocation| fields([("component", revocation.component.to_string()), ("state", describe(revocation))]))
}

pub(super) async fn unrevoke(client: &Client, component: Digest, output: Output) -> Result {
    client.delete::<IgnoredAny>(&path(&component)).await?;
    output.show(&serde_json::json!({ "component": component, "revoked": false }), |_| format!("{component} is no longer revoked"))
}

pub(super) async fn list(client: &Client, output: Output) -> Result {
    let revocations: List<Revocation> = client.get("/v1/plugins/revocations").await?;
    output.list(&revocations, ["component", "since", "reason"], |revocation| {
        let reason = revocation.reason.clone().unwrap_or_else(|| "-".into());
        [revocation.component.to_string(), revocation.revoked_at.strftime("%FT%TZ").to_string(), reason]
    })
}

/// Whether a component is revoked on the node, if one runs.
pub(super) async fn find(client: &Client, component: &Digest) -> Result<Option<Revocation>, Problem> {
    match client.get(&path(component)).await {
        Ok(revocation) => Ok(Some(revocation)),
        Err(problem) if matches!(problem.code, Code::NotFound | Code::NotRunning) => Ok(None),
        Err(problem) => Err(problem),
    }
}

/// Since when, and why.
pub(super) fn describe(revocation: &Revocation) -> String {
    let since = revocation.revoked_at.strftime("%FT%TZ");
    revocation.reason.as_ref().map_or_else(|| format!("revoked {since}"), |reason| format!("revoked {since}: {reason}"))
}

fn path(component: &Digest) -> String {
    format!("/v1/plugins/{component}/revocation")
}
