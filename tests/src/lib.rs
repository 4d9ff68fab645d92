//! The cluster harness: real programs as a mesh on the loopback interface, in a directory of their own.
//!
//! ```text
//! Cluster ── bootstrap() ─> Bootstrap ─┐
//!    │                                 ├─ Process: a child, its log, its end
//!    ├────── node("b").set(…) ─> Node ─┤      killed by its id when dropped; its log is shown if the test failed
//!    └────── gateway(&node) ─> Gateway ┘
//! ```
//!
//! Each cluster has a mesh id and ports of its own, so that tests run side by side. Tests wait on conditions ([`until`]),
//! never for a time.

mod bootstrap;
mod cluster;
mod gateway;
mod netns;
mod node;
mod plugin;
mod process;
mod programs;
mod raw;
mod token;
mod toolchains;
mod wait;
mod wire;

pub use bootstrap::Bootstrap;
pub use cluster::Cluster;
pub use gateway::{Gateway, Reply};
pub use netns::{Host, Nat, Network, Side};
pub use node::{Node, NodeBuilder, value};
pub use plugin::{Plugin, Publisher};
pub use process::{Answer, Process, processes_naming, run, run_within};
pub use programs::{command, program};
pub use raw::Raw;
pub use token::SoftToken;
pub use toolchains::with_toolchains;
pub use wait::{PATIENCE, until};
pub use wire::Wire;
