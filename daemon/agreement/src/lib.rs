//! Agreements, decided: what terms may say, who may change their state, which calls they cover, what a call may use.
//! Values and `now` in, values out; no store, no clock, no tokio.
//!
//! ```text
//! consumer                              provider
//! template::propose ── terms, signed ─> policy::decide ── accept, ask the operator, or refuse
//!                   <─ countersigned ──
//! lifecycle::State  <── signed transitions ──> lifecycle::State
//!
//! each call, at the provider:
//! authorize ─> Meter::reserve ─> (the sandbox, within `granted`) ─> commit ─> Meter::settle
//!     └─ Denied      └─ Denied
//! ```

pub mod authorize;
mod denied;
mod error;
#[cfg(test)]
mod fixture;
pub mod lifecycle;
pub mod meter;
pub mod policy;
pub mod template;

pub use authorize::{Request, authorize};
pub use denied::{Denied, Outside};
pub use error::Error;
pub use lifecycle::State;
pub use meter::{Meter, Reservation};
pub use policy::{Decision, Policy};
pub use template::{Parties, propose, templates};
