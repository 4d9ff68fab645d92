//! Stable error codes and RFC 9457 problem details: one vocabulary for the mesh, the local API and the command line.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::key::NodeId;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $status:literal, $exit:expr;)*) => {
        /// What went wrong, in a form that programs may rely on: a code never changes its meaning.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Code {
            $($(#[$doc])* #[serde(rename = $text)] $name,)*
        }

        impl Code {
            /// Every code, for documentation and tests.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The code as it stands in a problem document.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text),* }
            }

            /// The HTTP status that goes with it (RFC 9110).
            pub fn status(self) -> u16 {
                match self { $(Self::$name => $status),* }
            }

            /// The exit code of a command that fails with it.
            pub fn exit(self) -> Exit {
                match self { $(Self::$name => $exit),* }
            }
        }
    };
}

/// Exit codes of our programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// It was done.
    Success = 0,
    /// It failed.
    Failure = 1,
    /// The command line or the configuration is wrong.
    Usage = 2,
    /// No daemon answers on the socket.
    NotRunning = 3,
    /// Another process holds the data directory.
    Locked = 4,
    /// The caller may not do this.
    NotAuthorized = 5,
    /// It took longer than allowed.
    TimedOut = 6,
    /// The data directory needs a migration first.
    MigrationNeeded = 7,
}

codes! {
    /// The request isn't well formed.
    InvalidRequest = "invalid_request", 400, Exit::Failure;
    /// Parameters break the method's schema; `errors` names each place.
    InvalidParams = "invalid_params", 422, Exit::Failure;
    /// A configuration key or value is wrong.
    InvalidConfig = "invalid_config", 422, Exit::Usage;
    /// The thing named isn't known here.
    NotFound = "not_found", 404, Exit::Failure;
    /// No agent of this id or name is known here or in the mesh.
    AgentNotFound = "agent_not_found", 404, Exit::Failure;
    /// Its owner has stopped the agent: it takes no calls.
    AgentStopped = "agent_stopped", 409, Exit::Failure;
    /// The agent lives on another node by now: `moved_to` says on which.
    AgentMoved = "agent_moved", 421, Exit::Failure;
    /// The agent is on its way to another node.
    AgentMoving = "agent_moving", 503, Exit::Failure;
    /// The agent has no such method.
    MethodNotFound = "method_not_found", 404, Exit::Failure;
    /// No node offers this capability now.
    CapabilityNotFound = "capability_not_found", 404, Exit::Failure;
    /// Something of this name exists already.
    AlreadyExists = "already_exists", 409, Exit::Failure;
    /// The state of the thing forbids this now.
    Conflict = "conflict", 409, Exit::Failure;
    /// A body, frame, document or result is over its limit.
    TooLarge = "too_large", 413, Exit::Failure;
    /// The result is over the limit of a result.
    ResultTooLarge = "result_too_large", 413, Exit::Failure;
    /// No or wrong credentials.
    Unauthenticated = "unauthenticated", 401, Exit::NotAuthorized;
    /// The caller may not do this.
    NotAuthorized = "not_authorized", 403, Exit::NotAuthorized;
    /// A remote call without an agreement that covers it.
    AgreementRequired = "agreement_required", 403, Exit::NotAuthorized;
    /// The agreement has expired or isn't valid yet.
    AgreementExpired = "agreement_expired", 403, Exit::NotAuthorized;
    /// The agreement isn't in a state that allows calls.
    AgreementNotActive = "agreement_not_active", 403, Exit::NotAuthorized;
    /// The agent went on without the agreement, which is not in force any more: make a new one.
    AgreementLost = "agreement_lost", 403, Exit::NotAuthorized;
    /// The agreement isn't signed by both parties.
    AgreementNotSigned = "agreement_not_signed", 403, Exit::NotAuthorized;
    /// The agreement doesn't cover this method, agent or caller.
    AgreementScope = "agreement_scope", 403, Exit::NotAuthorized;
    /// A limit of the agreement is used up.
    AgreementExhausted = "agreement_exhausted", 429, Exit::NotAuthorized;
    /// Too many calls under the agreement have receipts that its consumer has not signed yet.
    AgreementUnacknowledged = "agreement_unacknowledged", 429, Exit::NotAuthorized;
    /// The provider signed a receipt that can't be true: no further calls are made under the agreement.
    AgreementDisputed = "agreement_disputed", 403, Exit::NotAuthorized;
    /// The provider's policy refuses these terms.
    AgreementRefused = "agreement_refused", 403, Exit::NotAuthorized;
    /// The state machine has no such transition.
    IllegalTransition = "illegal_transition", 409, Exit::Failure;
    /// The document carries no signature, or not the one it needs.
    Unsigned = "unsigned", 422, Exit::NotAuthorized;
    /// A signature doesn't verify, or the content isn't what was signed.
    BadSignature = "bad_signature", 422, Exit::NotAuthorized;
    /// The owner's key is in a token that doesn't sign now. Nothing was signed with another instead.
    KeyUnavailable = "key_unavailable", 503, Exit::Failure;
    /// The publisher isn't trusted on this node.
    UntrustedPublisher = "untrusted_publisher", 403, Exit::NotAuthorized;
    /// The document isn't of the expected type or can't be read.
    MalformedDocument = "malformed_document", 422, Exit::Failure;
    /// The document is of a version this program doesn't know.
    UnknownVersion = "unknown_version", 422, Exit::Failure;
    /// The document is of another mesh.
    ForeignMesh = "foreign_mesh", 422, Exit::Failure;
    /// The document has expired.
    Expired = "expired", 422, Exit::Failure;
    /// The document was issued in the future (over 60 s of skew).
    FutureDated = "future_dated", 422, Exit::Failure;
    /// The node isn't a member of this mesh, or doesn't show that it is.
    NotAMember = "not_a_member", 403, Exit::NotAuthorized;
    /// The credential is another node's.
    StolenCredential = "stolen_credential", 403, Exit::NotAuthorized;
    /// The mesh's authority has taken the node's membership back.
    Revoked = "revoked", 403, Exit::NotAuthorized;
    /// The node misbehaved here, and is kept out for a while.
    Banned = "banned", 403, Exit::NotAuthorized;
    /// The text isn't a join token, or not a whole one.
    InvalidToken = "invalid_token", 422, Exit::Failure;
    /// The join token has been used as often as it may.
    TokenUsedUp = "token_used_up", 403, Exit::NotAuthorized;
    /// The file isn't a WebAssembly component this node can run.
    InvalidPlugin = "invalid_plugin", 422, Exit::Failure;
    /// The node's operator has revoked the plugin's component: it isn't run any more. Its agents need another release.
    PluginRevoked = "plugin_revoked", 403, Exit::NotAuthorized;
    /// The plugin trapped.
    PluginTrapped = "plugin_trapped", 422, Exit::Failure;
    /// The plugin answered with an error of its own.
    PluginFailed = "plugin_failed", 422, Exit::Failure;
    /// The plugin refused the call.
    PluginDenied = "plugin_denied", 403, Exit::NotAuthorized;
    /// The plugin answered with what isn't JSON or breaks its own schema.
    PluginBadResult = "plugin_bad_result", 502, Exit::Failure;
    /// The call used all the fuel it may.
    OutOfFuel = "out_of_fuel", 422, Exit::Failure;
    /// The call wanted more memory than it may have.
    OutOfMemory = "out_of_memory", 422, Exit::Failure;
    /// The call wrote more state than it may, or the agent would hold more than its quota.
    StateQuota = "state_quota", 422, Exit::Failure;
    /// The call wanted to send more than it may.
    EgressQuota = "egress_quota", 422, Exit::Failure;
    /// The plugin asks for what the agent wasn't granted, or the node doesn't allow.
    ImportDenied = "import_denied", 403, Exit::NotAuthorized;
    /// An agent is called that waits for this very call.
    CallLoop = "call_loop", 508, Exit::Failure;
    /// Agents call one another more deeply than they may.
    CallDepth = "call_depth", 422, Exit::Failure;
    /// It took longer than its deadline.
    TimedOut = "timed_out", 504, Exit::TimedOut;
    /// The caller cancelled.
    Cancelled = "cancelled", 499, Exit::Failure;
    /// Too many calls are under way; try again later.
    Overloaded = "overloaded", 503, Exit::Failure;
    /// The peer can't be reached.
    Unreachable = "unreachable", 502, Exit::Failure;
    /// No daemon answers on the socket.
    NotRunning = "not_running", 503, Exit::NotRunning;
    /// Another process holds the data directory.
    Locked = "locked", 409, Exit::Locked;
    /// The store is of a version this program doesn't know, or needs a migration.
    MigrationNeeded = "migration_needed", 409, Exit::MigrationNeeded;
    /// The store failed.
    StoreFailed = "store_failed", 500, Exit::Failure;
    /// What is stored isn't what was written: a disk flipped a bit. What doesn't need it works.
    StoreDamaged = "store_damaged", 500, Exit::Failure;
    /// A proof or a log doesn't verify.
    ProofFailed = "proof_failed", 422, Exit::Failure;
    /// The entry's content was deleted, as it was old; its hash is there.
    Pruned = "pruned", 410, Exit::Failure;
    /// The node is stopping.
    ShuttingDown = "shutting_down", 503, Exit::NotRunning;
    /// A fault of ours.
    Internal = "internal", 500, Exit::Failure;
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One place in a request that is wrong (RFC 9457 extension member `errors`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldError {
    /// A JSON Pointer (RFC 6901) to the place; empty for the whole.
    pub pointer: String,
    /// What is wrong with it.
    pub detail: String,
}

/// An RFC 9457 problem document. Also the error that crosses the mesh.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{detail}")]
pub struct Problem {
    /// `urn:mcp-zero:error:<code>`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The code in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What failed, on what.
    pub detail: String,
    /// The stable code.
    pub code: Code,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The places that are wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
    /// In how many seconds it may be worth another try.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u32>,
    /// The node where the agent lives by now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moved_to: Option<NodeId>,
    /// The request this answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

impl Problem {
    /// A problem with its code and what failed, on what.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("urn:mcp-zero:error:{code}"),
            title: code.as_str().replace('_', " "),
            status: code.status(),
            detail: detail.into(),
            code,
            hint: None,
            errors: Vec::new(),
            // Calls are short: whoever finds no place finds one soon.
            retry_after: matches!(code, Code::Overloaded | Code::AgentMoving | Code::AgreementUnacknowledged).then_some(1),
            moved_to: None,
            request_id: None,
        }
    }

    /// Says what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Names the places that are wrong.
    #[must_use]
    pub fn errors(mut self, errors: Vec<FieldError>) -> Self {
        self.errors = errors;
        self
    }
}

impl From<crate::document::Error> for Problem {
    fn from(error: crate::document::Error) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct_and_read_back() {
        for (i, code) in Code::ALL.iter().enumerate() {
            assert!(Code::ALL[..i].iter().all(|other| other.as_str() != code.as_str()));
            let text = serde_json::to_string(code).expect("json");
            assert_eq!(text, format!("\"{code}\""));
            assert_eq!(serde_json::from_str::<Code>(&text).expect("own text"), *code);
        }
    }
}
