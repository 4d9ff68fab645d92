//! Attacks, kept as suites: each file is one kind of attacker, and what honest nodes do about it.
//!
//! `MCP_HOSTILE_ROUNDS` says how often each attack is repeated where repetition matters: few in CI, many by hand.

mod claimant;
mod client;
mod consumer;
mod member;
mod provider;
mod stranger;

/// How often an attack is repeated.
pub(crate) fn rounds() -> usize {
    std::env::var("MCP_HOSTILE_ROUNDS").map_or(4, |text| text.parse().expect("MCP_HOSTILE_ROUNDS is a number"))
}
