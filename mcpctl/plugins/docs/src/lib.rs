//! Full-text search over documents, as a plugin: `index` a document, `search` all of them, `stats`.
//!
//! ```text
//! plugin   the WebAssembly side: describes the methods, reads JSON, writes JSON
//!   index  documents and postings as keys of the agent's state
//!     text   words of a text            rank   which document is the better answer (BM25)
//!     snippet  the piece of a text around a match
//! ```
//! All but `plugin` is plain Rust, tested where it is built.

pub mod index;
#[cfg(target_arch = "wasm32")]
mod plugin;
pub mod rank;
pub mod snippet;
pub mod text;
