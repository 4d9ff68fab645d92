//! The mesh: a libp2p swarm that keeps a node connected, finds providers, spreads announcements and carries requests.
//!
//! ```text
//! Mesh (handle.rs) --Command--> Driver (driver/) --> swarm: identify, ping, Kademlia, gossipsub, rpc
//!   |                              |                   |
//!   |                              |                   transports (transport/) -> admission (admission.rs)
//!   |                              +--> Handler: connected, disconnected, announced
//!   +---- Session (rpc/) ===stream===> the peer's Handler::request
//! ```
//! A request uses a stream that a task of its own serves; the driver only opens it. What the handle and the driver both
//! know of connected peers is in peers.rs; whom to redial when is decided in redial.rs, without a clock or I/O.

mod address;
mod admission;
mod announcing;
mod behaviour;
mod book;
mod config;
mod driver;
mod error;
mod handle;
mod handler;
mod identity;
mod peers;
mod providing;
mod redial;
mod rpc;
mod store;
mod transport;

pub use address::parse_address;
pub use config::{Config, Listen};
pub use error::Error;
pub use handle::Mesh;
pub use handler::Handler;
