//! The programs as users meet them: real processes on the loopback interface, one module for each promise.

mod agreements;
mod cancel;
mod contract;
mod crash;
mod devstack;
mod egress;
mod events;
mod fixtures;
mod gateway;
mod identity;
mod lifecycle;
mod membership;
mod mesh;
mod moving;
mod nested;
mod plugins;
mod proofs;
mod revoked;
mod rogue;
mod snapshots;
mod swarm;
mod tampered;
mod terms;
mod web;
mod witness;
