//! Several nodes in one process, over real transports on loopback.

mod admission;
mod connect;
mod discovery;
mod harness;
mod rpc;
mod streaming;
