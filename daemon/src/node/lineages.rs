//! By which keys owners sign by now.
//!
//! ```text
//! a document signed by a newer key ─┐                     ┌─> refused: what an older key signs later,
//! an advert, which has the lineage ─┴─> learned, kept ────┴─> and any other successor than the first that was heard of
//! ```
//! A signature has what it takes to be verified. What is remembered here is what it can't tell: that its key was succeeded.

use std::sync::Arc;

use parking_lot::RwLock;
use protocol::{
    Did, Document, Envelope, Problem, Signed,
    advert::Advert,
    document,
    envelope::{self, Signatory},
    succession::{Error, Known, Lineage},
};
use store::{Kind, RecordWrite};

use super::{
    Node,
    journal::{self, Journal},
};

/// See the module. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Lineages(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    journal: Journal,
    owner: Did,
    known: RwLock<Known>,
}

impl Lineages {
    /// Restores what was heard; of this node's own owner counts what the data directory says.
    pub(crate) async fn open(journal: Journal, owner: Did, own: Option<&Lineage>) -> Result<Self, Problem> {
        let mut known = Known::default();
        let mut learn = |lineage: &Lineage| {
            if let Err(error) = known.learn(lineage) {
                tracing::warn!(owner = %lineage.root(), %error, "a lineage that was heard of is left out");
            }
        };
        own.into_iter().for_each(&mut learn);
        for (id, bytes) in journal::sound_records(journal.store().as_ref(), Kind::Lineage).await?.records {
            let proofs: Result<Vec<Envelope>, Problem> = journal::decode("lineage", &bytes);
            match proofs.map(|proofs| Lineage::open(&proofs)) {
                Ok(Ok(Some(lineage))) => learn(&lineage),
                broken => tracing::error!(%id, ?broken, "a lineage can't be read"),
            }
        }
        Ok(Self(Arc::new(Inner { journal, owner, known: RwLock::new(known) })))
    }

    /// Refuses what an older key signed after it was succeeded, as far as is known.
    pub(crate) fn check<D: Document>(&self, signed: &Signed<D>) -> Result<(), Problem> {
        Ok(self.0.known.read().check(signed)?)
    }

    /// The same, and learns by which keys these parties have signed.
    pub(crate) fn hear<D: Document>(&self, signed: &Signed<D>, parties: &[Did]) -> Result<(), Problem> {
        for Signatory { principal, lineage, .. } in signed.signatories() {
            if let Some(lineage) = lineage.as_ref().filter(|_| parties.contains(principal)) {
                self.learn(lineage)?;
            }
        }
        self.check(signed)
    }

    /// Takes a lineage, and keeps it soon.
    fn learn(&self, lineage: &Lineage) -> Result<(), Problem> {
        let owner = lineage.root();
        if self.0.known.read().of(owner).is_some_and(|known| known.follows(lineage)) {
            return Ok(());
        }
        match self.0.known.write().learn(lineage) {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            // A signature proves itself without it.
            Err(error @ Error::Full) => {
                tracing::warn!(%owner, %error, "a lineage isn't remembered");
                return Ok(());
            }
            Err(error) => return Err(document::Error::from(envelope::Error::from(error)).into()),
        }
        if owner == self.0.owner {
            tracing::warn!(key = %lineage.newest(), "this node's owner signs by another key elsewhere: bring owner.key and owner.lineage here");
        } else {
            tracing::info!(%owner, key = %lineage.newest(), "an owner signs by another key from now on");
        }
        let record = RecordWrite { kind: Kind::Lineage, id: owner.to_string(), value: Some(journal::encode(lineage)) };
        self.0.journal.keep_newest(record, lineage.steps().len() as u64);
        Ok(())
    }
}

impl Node {
    /// Learns from an advert by which key its owner signs by now, if that owner is anybody to this node.
    pub(super) fn hear_of(&self, advert: &Advert) {
        let concerns = || self.agreements.has_party(advert.owner) || self.owner_of(advert.node) == Some(advert.owner);
        let known = || self.lineages.0.known.read().of(advert.owner).is_some_and(|known| known.proofs() == advert.lineage);
        if advert.lineage.is_empty() || advert.node == self.node_id || known() || !concerns() {
            return;
        }
        let learned = match Lineage::open(&advert.lineage) {
            Ok(Some(lineage)) if lineage.root() == advert.owner => self.lineages.learn(&lineage).map_err(|problem| problem.to_string()),
            Ok(_) => Err("it is another's".into()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(why) = learned {
            tracing::warn!(node = %advert.node, owner = %advert.owner, why, "the lineage in an advert was refused");
        }
    }
}
