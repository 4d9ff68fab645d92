//! The vocabulary of MCP-ZERO: everything that crosses a wire, lands in a file, or can be verified offline.
//!
//! This crate imports nothing of ours, holds no clock and (without the `client` feature) no runtime:
//!
//! ```text
//! id, key, digest, time      names for things
//! tree                       BLAKE3 piece by piece, for content that is verified as it arrives
//! envelope -> document       what one party can prove to another (DSSE v1 over JSON)
//!   manifest, advert, agreement, receipt, statement, credential, snapshot
//! lifecycle                  where an agreement stands, and who may move it
//! template                   terms that parameters adapt
//! grant                      what an agent may reach outside of itself
//! token, admission           how a node enters a private mesh, and what two nodes show one another first
//! merkle, checkpoint, entry  the trace: RFC 6962 proofs, C2SP checkpoints
//! tile                       the trace as files (C2SP tiles)
//! cosignature, witness       what nodes say of one another's trace
//! bundle                     an agent in one file
//! wire, frame                mesh messages, their size limits, and how they are cut
//! api, client                the local API and its client over the Unix socket
//! error                      stable codes and RFC 9457 problems
//! ```
#![warn(missing_docs)]

pub mod admission;
pub mod advert;
pub mod agreement;
pub mod api;
pub mod bounds;
pub mod bundle;
pub mod checkpoint;
pub mod claim;
#[cfg(feature = "client")]
pub mod client;
pub mod cosignature;
pub mod credential;
pub mod custody;
pub mod digest;
pub mod document;
pub mod entry;
pub mod envelope;
pub mod error;
pub mod frame;
pub mod grant;
#[cfg(feature = "client")]
pub mod head;
pub mod id;
pub mod key;
pub mod lifecycle;
pub mod manifest;
pub mod merkle;
pub mod passphrase;
pub mod receipt;
pub mod signer;
pub mod snapshot;
pub mod statement;
pub mod succession;
pub mod template;
pub mod tile;
pub mod token;
pub mod tree;
pub mod usage;
pub mod wire;
pub mod witness;

#[cfg(feature = "client")]
pub use client::Client;
pub use credential::Credential;
pub use digest::Digest;
pub use document::{Document, Expect, Header, Signed};
pub use envelope::Envelope;
pub use error::{Code, Problem};
pub use id::{AgentId, AgreementId, MeshId, OperationId, PluginId, SnapshotId, TokenId};
pub use jiff::{SignedDuration, Timestamp};
pub use key::{Did, Key, NodeId};
pub use passphrase::Passphrase;
pub use signer::Signer;
pub use token::Token;
pub use usage::Usage;
