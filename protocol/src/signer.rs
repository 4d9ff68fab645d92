//! Who signs in a principal's name: a key at hand, or one that is elsewhere and may not answer.

use std::{fmt, pin::Pin};

use crate::{
    error::Problem,
    key::{Did, Key},
    succession::Lineage,
};

/// A signature that is on its way.
pub type Signing<'a> = Pin<Box<dyn Future<Output = Result<[u8; 64], Problem>> + Send + 'a>>;

/// Signs in the name of one principal.
pub trait Signer: fmt::Debug + Send + Sync {
    /// In whose name.
    fn did(&self) -> Did;

    /// By which key: another one than the principal's first, where that was succeeded.
    fn key(&self) -> Did {
        self.did()
    }

    /// The successions from the principal's first key to this one.
    fn lineage(&self) -> Option<&Lineage> {
        None
    }

    /// Signs `message` (Ed25519, RFC 8032).
    ///
    /// # Errors
    /// `key_unavailable`: the key can't be used now. Nothing is signed with another instead.
    fn sign<'a>(&'a self, message: &'a [u8]) -> Signing<'a>;
}

impl Signer for Key {
    fn did(&self) -> Did {
        Self::did(self)
    }

    fn sign<'a>(&'a self, message: &'a [u8]) -> Signing<'a> {
        Box::pin(std::future::ready(Ok(Self::sign(self, message))))
    }
}
