//! Peers that mean harm, on raw libp2p: what honest nodes must withstand.

mod members;
mod silent;
mod strangers;

/// Held by each test, as they measure the memory and the speed of the process that they share.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
