//! The mesh on an internet of our own: NATs, slow and lossy links, cuts, plugs that are pulled. Needs root, iproute2 and
//! nftables; each test makes its own network.

mod healing;
mod nat;
mod private;
mod reach;
