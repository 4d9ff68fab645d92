//! Peers that mean harm, on raw libp2p: what honest nodes must withstand.

mod members;
mod strangers;
