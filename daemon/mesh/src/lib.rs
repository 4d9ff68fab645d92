//! The mesh: a libp2p swarm that keeps a node connected, finds providers, spreads announcements and carries requests.
//!
//! ```text
//! Mesh (handle.rs) --Command--> Driver (driver/) --> swarm: identify, ping, Kademlia, gossipsub, rpc
//!   |                              |                   |
//!   |                              |                   relay, hole punching, AutoNAT, UPnP, mDNS
//!   |                              |                   transports (transport/) -> admission (admission.rs)
//!   |                              +--> Handler: connected, disconnected, announced
//!   +---- Session (rpc/) ===stream===> the peer's Handler::request
//! ```
//! Who may connect is judged in membership.rs, before the swarm sees a connection (admission.rs); keeper.rs renews this
//! node's credential and spreads revocations; enrol.rs makes a node a member by a join token.
//!
//! What others may use of this node stands in limits.rs; who doesn't keep to it, in bans.rs.
//!
//! Answers in parts: answers.rs, and transfer/ for content too large for a message.
//!
//! A request uses a stream that a task of its own serves; the driver only opens it. What the handle and the driver both
//! know of connected peers is in peers.rs; whom to redial when is decided in redial.rs, without a clock or I/O.

mod address;
mod admission;
mod announcing;
mod answers;
mod bans;
mod behaviour;
mod book;
mod ca;
mod config;
mod crowding;
mod diversity;
mod driver;
mod enrol;
mod error;
mod handle;
mod handler;
mod identity;
mod keeper;
mod limits;
mod membership;
mod papers;
mod peers;
mod providing;
mod redial;
mod relaying;
mod reserving;
mod rpc;
mod shunning;
mod store;
mod transfer;
mod transport;
mod trimming;

pub use address::parse_address;
pub use answers::{Answers, Piece};
pub use ca::CertificateAuthority;
pub use config::{Config, Listen};
pub use enrol::{Enrolling, Step, enrol};
pub use error::Error;
pub use handle::Mesh;
pub use handler::Handler;
pub use membership::{Authority, Membership, Pending};
pub use papers::{Keys, Papers};
pub use rpc::Items;
pub use transport::CertificateFiles;
