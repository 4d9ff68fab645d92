//! A look through all of the store: SQLite's own over the file's structure, then each row against its sum.
//!
//! A start takes a moment for it, so that a store of usual size is known to be whole before anybody is served from it;
//! `mcpctl store verify` takes as long as it takes.

use std::{
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use rusqlite::{Connection, ErrorCode};

use super::{damage, failed, readers::Readers, sum::Table};
use crate::{Checked, MAX_TOLD, error::DamagedRow, error::Error};

/// Rows between two looks at the clock.
const STRIDE: u64 = 256;
/// What SQLite says of the structure, at most.
const MAX_FINDINGS: u32 = 100;

/// What was found, off the runtime's threads.
pub(super) async fn run(readers: Arc<Readers>, within: Option<Duration>) -> Result<Checked, Error> {
    let done = tokio::task::spawn_blocking(move || look(&readers, within)).await;
    done.unwrap_or_else(|error| Err(Error::failed("check", error)))
}

fn look(readers: &Readers, within: Option<Duration>) -> Result<Checked, Error> {
    let connection = readers.connect()?;
    let until = within.map(|within| Instant::now() + within);
    let mut checked = Checked { complete: true, ..Checked::default() };
    match structure(&connection, within).map_err(failed("check its structure"))? {
        Some(found) => checked.structure = found,
        None => checked.complete = false,
    }
    // Where the structure is damaged, what rows there are depends on who looks; those that are found are still judged.
    let mut known = Vec::new();
    for table in Table::ALL {
        let name = table.layout().name;
        match rows(&connection, table, until, &mut known) {
            Ok((count, all)) => {
                checked.rows.push((name, count));
                checked.complete &= all;
            }
            Err(error) if is_corrupt(&error) => checked.structure.push(format!("{name}: {error}")),
            Err(error) => return Err(failed("check its rows")(error)),
        }
    }
    for row in &known {
        // Named in the log, once for each.
        let _ = readers.damage().found(row.clone());
    }
    if checked.complete {
        readers.damage().replace(known.clone());
    }
    known.truncate(MAX_TOLD);
    checked.damaged = known;
    Ok(checked)
}

/// What SQLite finds; none if the time wasn't enough.
fn structure(connection: &Connection, within: Option<Duration>) -> rusqlite::Result<Option<Vec<String>>> {
    let check = || -> rusqlite::Result<Vec<String>> {
        let mut statement = connection.prepare(&format!("PRAGMA integrity_check({MAX_FINDINGS})"))?;
        statement.query_map([], |row| row.get(0))?.collect()
    };
    let found = match within {
        None => check(),
        Some(within) => {
            let (done, waiting) = mpsc::channel::<()>();
            let interrupt = connection.get_interrupt_handle();
            std::thread::scope(|scope| {
                scope.spawn(move || {
                    if waiting.recv_timeout(within) == Err(mpsc::RecvTimeoutError::Timeout) {
                        interrupt.interrupt();
                    }
                });
                let found = check();
                drop(done);
                found
            })
        }
    };
    match found {
        Ok(found) => Ok(Some(found.into_iter().filter(|line| line != "ok").collect())),
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) => Ok(None),
        Err(error) if is_corrupt(&error) => Ok(Some(vec![error.to_string()])),
        Err(error) => Err(error),
    }
}

/// Holds the rows of a table against their sums; says how many, and whether it was all of them.
fn rows(connection: &Connection, table: Table, until: Option<Instant>, damaged: &mut Vec<DamagedRow>) -> rusqlite::Result<(u64, bool)> {
    let layout = table.layout();
    let mut statement = connection.prepare(&format!("SELECT {} FROM {}", layout.columns, layout.name))?;
    let mut rows = statement.query([])?;
    let mut count = 0;
    while let Some(row) = rows.next()? {
        damaged.extend(damage::damaged(table, row)?);
        count += 1;
        if count % STRIDE == 0 && until.is_some_and(|until| Instant::now() >= until) {
            return Ok((count, false));
        }
    }
    Ok((count, true))
}

fn is_corrupt(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}

/// Whether all that was found is that an index isn't what its table says.
pub(super) fn of_indices_alone(found: &[String]) -> bool {
    found.iter().all(|line| line.contains("missing from index") || line.starts_with("wrong # of entries in index"))
}
