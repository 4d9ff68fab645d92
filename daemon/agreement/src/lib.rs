//! Agreements, decided: what terms may say, which calls they cover, what a call may use. Who may change their state is said in
//! `protocol::lifecycle`, as an auditor needs it too.
//! Values and `now` in, values out; no store, no clock, no tokio.
//!
//! ```text
//! consumer                              provider
//! template::propose ── terms, signed ─> policy::decide ── accept, ask the operator, or refuse
//!                   <─ countersigned ──
//!                   <── signed transitions ──>
//!
//! each call, at the provider:
//! authorize ─> Meter::reserve ─> (the sandbox, within `granted`) ─> commit ─> Meter::settle
//!     └─ Denied      └─ Denied
//! ```

pub mod authorize;
pub mod budget;
mod denied;
mod error;
#[cfg(test)]
mod fixture;
pub mod meter;
pub mod policy;
pub mod rate;
pub mod template;

pub use authorize::{Request, authorize};
pub use denied::{Denied, Outside};
pub use error::Error;
pub use meter::{Meter, Reservation};
pub use policy::{Decision, Policy};
pub use template::{Parties, propose, templates};
