//! The kernel: a sandbox for WebAssembly plugins, and nothing of what they are used for.
//!
//! ```text
//! component + manifest --inspect--> compile (child, cached) --link what the manifest asks for--> Plugin
//! Plugin + Call --fresh instance--> Outcome { result, usage, writes }
//!                 limits: fuel, memory (sum), wall time, state, result
//! ```
//! It knows neither agents nor the store: a [`Call`] brings the [`State`] that it reads, and its [`Outcome`] the
//! writes that its caller commits; what a guest reaches outside of itself is the call's [`Outside`]. This is the only crate that names wasmtime.

mod aside;
mod cache;
mod call;
mod ceiling;
mod compile;
mod engine;
mod error;
#[cfg(feature = "fixture")]
pub mod fixture;
mod host;
mod inspect;
mod kernel;
mod limit;
mod outside;
mod overlay;
mod places;
mod plugin;
mod schema;
mod share;
mod tenants;
mod ticker;

pub use call::{Call, Outcome};
pub use compile::{COMPILE_ARG, Compiler, compile_worker};
pub use engine::MAX_MEMORY;
pub use error::{Error, Failure};
pub use host::{Level, Log};
pub use kernel::{Config, Kernel};
pub use outside::{AgentCall, Egress, HttpRequest, HttpResponse, Outside, Refused};
pub use overlay::{MAX_KEY, MAX_KEYS, MAX_VALUE, State, StateError, Writes};
pub use plugin::Plugin;
