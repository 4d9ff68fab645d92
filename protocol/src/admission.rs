//! What two nodes show one another on a connection's first substream, before anything else runs.
//!
//! ```text
//! dialler                      listener
//!    | Hello: mesh, offer ------->|
//!    |<------ Hello: mesh, offer  |
//!    |<------ Verdict on the dialler
//!    | Verdict on the listener -->|
//! ```
//! Each message is a frame of `length u16 BE | CBOR`. The transport below has proved which node is at the other end;
//! whatever is shown is held against that.

use serde::{Deserialize, Serialize};

use crate::{
    credential::Credential,
    document::Sealed,
    error::{Code, Problem},
    id::MeshId,
    token::Enrolment,
};

/// The version of the exchange.
pub const VERSION: u8 = 1;
/// The largest message: a credential takes a third of it, an enrolment half.
pub const MAX_MESSAGE: usize = 4_096;

/// The first message of each side.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// [`VERSION`].
    pub version: u8,
    /// The mesh that the sender is in or wants to enter.
    pub mesh: MeshId,
    /// Why it should be admitted.
    pub offer: Offer,
}

/// What a node shows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Offer {
    /// Nothing: in an open mesh nothing is asked for.
    Nothing,
    /// Its credential.
    Credential(Sealed<Credential>),
    /// That it holds a join token. It is enrolled, and then connects again as a member.
    Enrolment(Sealed<Enrolment>),
}

/// What each side says of the other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Verdict {
    /// Welcome.
    Admitted,
    /// You are a member now: come again with this.
    Enrolled(Sealed<Credential>),
    /// You are not let in.
    Refused(Refusal),
}

/// Why a node is not let in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{detail}")]
pub struct Refusal {
    /// The reason, for programs.
    pub code: Code,
    /// The reason, for people.
    pub detail: String,
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        // What doesn't fit a message must not keep the rest from being said.
        Self { code: problem.code, detail: problem.detail.chars().take(400).collect() }
    }
}

impl From<Refusal> for Problem {
    fn from(Refusal { code, detail }: Refusal) -> Self {
        Self::new(code, detail.chars().take(400).collect::<String>())
    }
}
