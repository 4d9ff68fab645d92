//! What of the store is known to be damaged.
//!
//! A row whose content changed is found where it is read, and is no trouble for others. One whose key changed isn't found where it
//! is looked for: so a look-up that finds nothing asks here whether that is what it was written under. Where nobody can tell, no
//! look-up in that table is believed that finds nothing.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rusqlite::types::Type;

use super::sum::{Part, Parts, Table, Unsound, encode};
use crate::error::DamagedRow;

/// Rows that are remembered; with more than that the disk is to be replaced, not the rows.
const MAX_ROWS: usize = 10_000;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Damage {
    rows: Mutex<Vec<DamagedRow>>,
    /// Whether a key is among what changed: so long as none is, a look-up costs nothing more.
    keys: AtomicBool,
    /// Whether there is any.
    any: AtomicBool,
}

impl Damage {
    /// Notes a damaged row, names it in the log once, and says what whoever needs it is to be told.
    pub(super) fn found(&self, row: DamagedRow) -> rusqlite::Error {
        let mut rows = self.rows.lock();
        if !rows.contains(&row) {
            tracing::error!(table = row.table, key = row.key, content = row.content, "a row of the store is damaged");
            if rows.len() < MAX_ROWS {
                rows.push(row.clone());
            }
            self.any.store(true, Ordering::Release);
            if !row.content {
                self.keys.store(true, Ordering::Release);
            }
        }
        rusqlite::Error::FromSqlConversionFailure(0, Type::Null, Box::new(row))
    }

    /// Refuses a row that doesn't match its sum.
    pub(super) fn check(&self, parts: &Parts<'_>, sum: i64) -> rusqlite::Result<()> {
        match parts.unsound(Part::Number(sum)) {
            None => Ok(()),
            Some(unsound) => Err(self.found(parts.damaged(unsound, Part::Number(sum)))),
        }
    }

    /// Refuses a row whose head doesn't match its sum; its content wasn't read.
    pub(super) fn check_head(&self, parts: &Parts<'_>, sum: i64) -> rusqlite::Result<()> {
        match parts.unsound_head(sum) {
            None => Ok(()),
            Some(unsound) => Err(self.found(parts.damaged(unsound, Part::Number(sum)))),
        }
    }

    /// Refuses to believe that nothing is there under a key, or under keys that begin so, where something may have been.
    pub(super) fn nothing(&self, table: Table, key: &[Part<'_>]) -> rusqlite::Result<()> {
        if !self.keys.load(Ordering::Acquire) {
            return Ok(());
        }
        let (name, prefix) = (table.layout().name, encode(key));
        let suspect = |row: &DamagedRow| {
            let may_be = row.original.as_ref().is_none_or(|original| original.starts_with(&prefix));
            row.table == name && !row.content && may_be
        };
        let found = self.rows.lock().iter().find(|row| suspect(row)).cloned();
        found.map_or(Ok(()), |row| Err(self.found(row)))
    }

    /// The same of a look-up by what isn't the key: any damaged row of the table may be the one.
    pub(super) fn nothing_else(&self, table: Table) -> rusqlite::Result<()> {
        if !self.any.load(Ordering::Acquire) {
            return Ok(());
        }
        let found = self.rows.lock().iter().find(|row| row.table == table.layout().name).cloned();
        found.map_or(Ok(()), |row| Err(self.found(row)))
    }

    /// All that is known.
    pub(super) fn rows(&self) -> Vec<DamagedRow> {
        self.rows.lock().clone()
    }

    /// What a look through all of the store has found takes the place of what was known.
    pub(super) fn replace(&self, rows: Vec<DamagedRow>) {
        let keys = rows.iter().any(|row| !row.content);
        self.any.store(!rows.is_empty(), Ordering::Release);
        *self.rows.lock() = rows;
        self.keys.store(keys, Ordering::Release);
    }
}

/// The row that an error is about.
pub(super) fn row_of(error: &rusqlite::Error) -> Option<&DamagedRow> {
    match error {
        rusqlite::Error::FromSqlConversionFailure(_, _, source) => source.downcast_ref(),
        _ => None,
    }
}

/// Whether a row that was read as a whole is damaged, and which it is.
pub(super) fn damaged(table: Table, row: &rusqlite::Row<'_>) -> rusqlite::Result<Option<DamagedRow>> {
    let (parts, sum) = Parts::read(table, row)?;
    let unsound = parts.unsound(sum);
    let entry = || Ok::<_, rusqlite::Error>(table == Table::Log && !matches_leaf(row)?);
    Ok(match unsound {
        Some(unsound) => Some(parts.damaged(unsound, sum)),
        None if entry()? => Some(parts.damaged(Unsound::Content, sum)),
        None => None,
    })
}

/// Whether an entry, if it has content, is what its leaf is the hash of.
fn matches_leaf(row: &rusqlite::Row<'_>) -> rusqlite::Result<bool> {
    Ok(match (Part::of(row, 2)?, Part::of(row, 3)?) {
        (Part::Bytes(_), Part::Bytes([])) => true,
        (Part::Bytes(leaf), Part::Bytes(entry)) => protocol::merkle::leaf_hash(entry) == *leaf,
        _ => false,
    })
}
