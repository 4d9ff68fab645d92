//! Plugins for tests, made of WebAssembly text in a millisecond: no toolchain, no files.
//!
//! ```
//! use kernel::fixture::{Builder, Effect};
//! let component = Builder::new()
//!     .method("hello", Effect::ReadOnly, "(call $ok (i32.const 900) (i32.const 4))")
//!     .data(900, "null")
//!     .build();
//! # assert!(!component.is_empty());
//! ```

mod bare;
mod builder;
mod misbehaving;
mod reaching;

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use parking_lot::Mutex;
use protocol::{
    Digest, Key, MeshId, Timestamp,
    document::{Document as _, Header},
    manifest::{INTERFACE, Import, Manifest},
};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};

pub use self::bare::Bare;
pub use self::builder::Builder;
pub use self::misbehaving::misbehaving;
pub use self::reaching::reaching;
pub use protocol::advert::Effect;

use crate::overlay::{State, StateError, Writes};

/// The plugin interface as text.
pub const WIT: &str = include_str!("../../../protocol/wit/plugin.wit");

/// Makes a component of a core module, given as text or binary, that follows the canonical ABI of world `plugin`.
///
/// # Panics
/// If the module isn't one: tests want to see that at once.
pub fn component(module: &str) -> Vec<u8> {
    component_of(WIT, module)
}

/// The same for another text of the interface: another version, say.
///
/// # Panics
/// If the module doesn't fit it.
pub fn component_of(wit: &str, module: &str) -> Vec<u8> {
    let mut module = wat::parse_str(module).unwrap_or_else(|error| panic!("{error}"));
    let mut resolve = wit_parser::Resolve::default();
    let package = resolve.push_source("plugin.wit", wit).expect("the interface is valid");
    let world = resolve.select_world(&[package], Some("plugin")).expect("the interface has this world");
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8, false).expect("metadata fits any module");
    componentize(&module).unwrap_or_else(|error| panic!("{error}"))
}

/// Makes a component of a core module that carries its interface, as `wit-bindgen` leaves it; says why it can't.
pub fn componentize(module: &[u8]) -> Result<Vec<u8>, String> {
    let encoded = ComponentEncoder::default().validate(true).module(module).and_then(|encoder| encoder.encode());
    encoded.map_err(|error| format!("{error:#}"))
}

/// An unsigned manifest of a component.
pub fn manifest(name: &str, component: &[u8], imports: &[Import]) -> Manifest {
    Manifest {
        header: Header {
            kind: Manifest::TYPE.into(),
            version: Manifest::VERSION,
            mesh: MeshId::any(),
            issued_at: Timestamp::UNIX_EPOCH,
            expires_at: Timestamp::MAX,
        },
        name: name.into(),
        release: "1.0.0".into(),
        publisher: Key::generate().did(),
        component: Digest::blake3(component),
        size: component.len() as u64,
        interface: INTERFACE.into(),
        imports: imports.to_vec(),
        health: None,
    }
}

/// An agent's state in memory. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Memory(Arc<Mutex<BTreeMap<String, Vec<u8>>>>);

impl Memory {
    /// Commits a call's writes.
    pub fn commit(&self, writes: Writes) {
        let mut map = self.0.lock();
        for (key, value) in writes {
            match value {
                Some(value) => map.insert(key, value),
                None => map.remove(&key),
            };
        }
    }

    /// A copy of all there is.
    pub fn snapshot(&self) -> BTreeMap<String, Vec<u8>> {
        self.0.lock().clone()
    }
}

impl FromIterator<(String, Vec<u8>)> for Memory {
    fn from_iter<T: IntoIterator<Item = (String, Vec<u8>)>>(iter: T) -> Self {
        Self(Arc::new(Mutex::new(iter.into_iter().collect())))
    }
}

#[async_trait]
impl State for Memory {
    async fn get(&mut self, key: &str) -> Result<Option<Vec<u8>>, StateError> {
        Ok(self.0.lock().get(key).cloned())
    }

    async fn list(&mut self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<String>, StateError> {
        use std::ops::Bound::{Excluded, Included, Unbounded};
        let from = after.filter(|after| *after >= prefix).map_or(Included(prefix), Excluded);
        let map = self.0.lock();
        let found = map.range::<str, _>((from, Unbounded)).take_while(|(key, _)| key.starts_with(prefix));
        Ok(found.take(limit).map(|(key, _)| key.clone()).collect())
    }
}
