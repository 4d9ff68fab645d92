//! The one connection that writes.
//!
//! ```text
//! BEGIN IMMEDIATE
//!   SAVEPOINT  commit 1  RELEASE
//!   SAVEPOINT  commit 2  ROLLBACK TO      rejected: alone
//!   …
//! COMMIT                                  one flush; before it nobody is told anything
//! ```

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use protocol::{AgreementId, Usage};
use rusqlite::{Connection, ErrorCode, OptionalExtension as _, Params, Row, TransactionBehavior};

use super::{
    damage::{self, Damage},
    failed, quantity,
    reads::Reading,
    schema, stored,
    sum::{Part, Parts, Table},
    tracking::{self, Beside},
};
use crate::{
    commit::{Answer, Append, Charge, Commit, Committed, Held, OVERAGE, RecordWrite, Rejected, StateWrites, TreeNode},
    error::Error,
};

/// The write-ahead log is emptied by force above this size. SQLite starts it over by itself, but only at a moment
/// without readers, and a busy node may never have one.
const LOG_LIMIT: u64 = 64 << 20;
/// How long that may wait for readers to end: writers wait too.
const LOG_PATIENCE: Duration = Duration::from_millis(250);
/// How long until it is tried again.
const LOG_PAUSE: Duration = Duration::from_secs(10);
/// Expired answers dropped in one transaction: some 10 ms, so that commits get in between.
const FORGOTTEN: usize = 1000;

#[derive(Debug)]
pub(super) struct Writer {
    connection: Connection,
    log: PathBuf,
    /// Since when readers are known to hold it.
    log_held: Option<Instant>,
    damage: Arc<Damage>,
}

/// Why a commit stops: by itself, or with its whole group.
enum Stop {
    Rejected(Rejected),
    Failed(rusqlite::Error),
}

impl From<Rejected> for Stop {
    fn from(rejected: Rejected) -> Self {
        Self::Rejected(rejected)
    }
}

impl From<rusqlite::Error> for Stop {
    /// What is damaged refuses the commit that needs it, and no other.
    fn from(error: rusqlite::Error) -> Self {
        match damage::row_of(&error) {
            Some(row) => Self::Rejected(Rejected::Damaged { row: row.to_string() }),
            None if error.sqlite_error_code() == Some(ErrorCode::DatabaseCorrupt) => {
                tracing::error!(%error, "the store's file is damaged");
                Self::Rejected(Rejected::Damaged { row: error.to_string() })
            }
            None => Self::Failed(error),
        }
    }
}

impl Writer {
    pub(super) fn new(connection: Connection, log: PathBuf, damage: Arc<Damage>) -> Self {
        Self { connection, log, log_held: None, damage }
    }

    /// Applies a group; on an error nothing of it was made.
    pub(super) fn apply(&mut self, group: &[Commit]) -> Result<Vec<Result<Committed, Rejected>>, Error> {
        let outcomes = self.transact(group).map_err(failed("write"))?;
        self.trim();
        Ok(outcomes)
    }

    fn transact(&mut self, group: &[Commit]) -> rusqlite::Result<Vec<Result<Committed, Rejected>>> {
        // Rolled back where it is dropped.
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut batch = Batch { connection: &transaction, next: None, damage: &self.damage };
        let outcomes: rusqlite::Result<Vec<_>> = group.iter().map(|commit| batch.alone(commit)).collect();
        let outcomes = outcomes?;
        transaction.commit()?;
        Ok(outcomes)
    }

    /// Drops some answers that have expired, and says how many. A damaged one stays: its time may be what changed.
    pub(super) fn forget(&mut self, now_s: i64) -> Result<usize, Error> {
        self.forget_some(now_s).map_err(failed("forget answers"))
    }

    fn forget_some(&mut self, now_s: i64) -> rusqlite::Result<usize> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let sql = "SELECT scope, key, expires, length(value), sum FROM answer WHERE expires <= ?1 ORDER BY expires LIMIT ?2";
        let mut forgotten = 0;
        {
            let mut statement = transaction.prepare_cached(sql)?;
            let expired = statement.query_map((now_s, FORGOTTEN as i64), |row| {
                let head = [Part::of(row, 0)?, Part::of(row, 1)?, Part::of(row, 2)?];
                match self.damage.check_head(&Parts::unread(Table::Answer, &head, row.get(3)?), row.get(4)?) {
                    Ok(()) => Ok(Some((row.get::<_, String>(0)?, row.get::<_, String>(1)?))),
                    Err(_) => Ok(None),
                }
            })?;
            let expired = expired.collect::<rusqlite::Result<Vec<_>>>()?;
            for key in expired.into_iter().flatten() {
                forgotten += run(&transaction, "DELETE FROM answer WHERE scope = ?1 AND key = ?2", key)?;
            }
        }
        transaction.commit()?;
        Ok(forgotten)
    }

    /// Makes the indices again from their tables.
    pub(super) fn reindex(&mut self) -> Result<(), Error> {
        self.connection.execute_batch("REINDEX").map_err(failed("make its indices again"))
    }

    /// Leaves one file behind, all in it.
    pub(super) fn close(self) -> Result<(), Error> {
        // Readers that are still there hold a part back: it stays in the write-ahead log, as durable as before.
        schema::checkpoint(&self.connection)?;
        self.connection.close().map_err(|(_, error)| failed("close")(error))
    }

    fn trim(&mut self) {
        let long = std::fs::metadata(&self.log).is_ok_and(|log| log.len() > LOG_LIMIT);
        if !long || self.log_held.is_some_and(|since| since.elapsed() < LOG_PAUSE) {
            return;
        }
        let trimmed = self.connection.busy_timeout(LOG_PATIENCE).map_err(failed("set it up"));
        let trimmed = trimmed.and_then(|()| schema::checkpoint(&self.connection));
        let restored = self.connection.busy_timeout(schema::WRITER_PATIENCE);
        // What was acknowledged stays so whatever comes out of it.
        self.log_held = if matches!(trimmed, Ok(true)) { None } else { Some(Instant::now()) };
        match (trimmed, restored) {
            (Ok(true), Ok(())) => {}
            (Ok(false), Ok(())) => tracing::debug!("the write-ahead log is long, readers hold it"),
            (Err(error), _) => tracing::warn!(%error, "could not empty the write-ahead log"),
            (_, Err(error)) => tracing::warn!(%error, "could not set the writer's patience"),
        }
    }
}

/// A transaction under way.
struct Batch<'a> {
    connection: &'a Connection,
    /// The index of the next entry, once it is known.
    next: Option<u64>,
    damage: &'a Damage,
}

impl Batch<'_> {
    /// The rows that it reads, held against their sums.
    fn reading(&self) -> Reading<'_> {
        Reading { connection: self.connection, damage: self.damage }
    }

    fn alone(&mut self, commit: &Commit) -> rusqlite::Result<Result<Committed, Rejected>> {
        run(self.connection, "SAVEPOINT one", ())?;
        let outcome = match self.make(commit) {
            Ok(committed) => Ok(committed),
            Err(Stop::Rejected(rejected)) => {
                run(self.connection, "ROLLBACK TO one", ())?;
                Err(rejected)
            }
            Err(Stop::Failed(error)) => return Err(error),
        };
        run(self.connection, "RELEASE one", ())?;
        if let Ok(Committed { index: Some(index), .. }) = outcome {
            self.next = Some(index + 1);
        }
        Ok(outcome)
    }

    fn make(&self, commit: &Commit) -> Result<Committed, Stop> {
        commit.check()?;
        if let Some(scope) = &commit.clear_answers {
            // No text that begins so comes after it and the last character there is.
            run(self.connection, "DELETE FROM answer WHERE scope >= ?1 AND scope < ?2", (scope, format!("{scope}\u{10ffff}")))?;
        }
        // What may be rejected comes first: less to roll back.
        if let Some(answer) = &commit.answer {
            self.answer(answer)?;
        }
        for (agreement, bucket) in &commit.retire {
            let sql = "DELETE FROM usage WHERE agreement = ?1 AND bucket = ?2";
            run(self.connection, sql, (agreement.uuid().as_bytes(), bucket))?;
        }
        let charged = commit.charge.as_ref().map(|charge| self.charge(charge)).transpose()?;
        let index = commit.entry.as_ref().map(|append| self.append(append)).transpose()?;
        if let Some(agent) = &commit.clear_state {
            run(self.connection, "DELETE FROM state WHERE agent = ?1", [agent.uuid().as_bytes()])?;
            tracking::clear(self.reading(), agent)?;
        }
        if let Some(state) = &commit.state {
            self.state(state)?;
        }
        if let Some(tracking) = &commit.tracking {
            tracking::apply(self.reading(), tracking)?;
        }
        for record in &commit.records {
            self.record(record)?;
        }
        for node in &commit.nodes {
            self.node(node)?;
        }
        for index in &commit.prune {
            self.prune(stored(*index))?;
        }
        Ok(Committed { index, total: charged.and_then(|(total, _)| total), overage: charged.map(|(_, overage)| overage) })
    }

    fn answer(&self, answer: &Answer) -> Result<(), Stop> {
        let (scope, key) = (Part::Bytes(answer.scope.as_bytes()), Part::Bytes(answer.key.as_bytes()));
        let mut statement =
            self.connection.prepare_cached("SELECT expires, length(value), sum FROM answer WHERE scope = ?1 AND key = ?2")?;
        let read = |row: &Row<'_>| {
            let expires = row.get(0)?;
            let parts = Parts::unread(Table::Answer, &[scope, key, Part::Number(expires)], row.get(1)?);
            self.damage.check_head(&parts, row.get(2)?)?;
            Ok(expires)
        };
        let before: Option<i64> = statement.query_row((&answer.scope, &answer.key), read).optional()?;
        match before {
            Some(expires) if expires > answer.now_s => return Err(Rejected::Duplicate.into()),
            Some(_) => {}
            None => self.damage.nothing(Table::Answer, &[scope, key])?,
        }
        let sum = Parts::measured(Table::Answer, &[scope, key, Part::Number(answer.expires_s)], &answer.value).sum();
        let sql = "INSERT OR REPLACE INTO answer (scope, key, expires, sum, value) VALUES (?1, ?2, ?3, ?4, ?5)";
        run(self.connection, sql, (&answer.scope, &answer.key, answer.expires_s, sum, &answer.value))?;
        Ok(())
    }

    /// Adds to every bucket, and to the overage. What the first holds now, and what the overage is.
    fn charge(&self, charge: &Charge) -> Result<(Option<Usage>, Usage), Stop> {
        let (mut total, mut beyond) = (None, Usage::default());
        for bucket in &charge.buckets {
            let before = self.reading().used(&charge.agreement, &bucket.name)?;
            let after = before.plus(charge.usage);
            if !after.within(bucket.cap) {
                return Err(Rejected::OverLimit { agreement: charge.agreement, bucket: bucket.name.clone() }.into());
            }
            self.set(&charge.agreement, &bucket.name, after)?;
            beyond = beyond.max(after.minus(bucket.limit).minus(before.minus(bucket.limit)));
            // As a reader would see it: saturated.
            total = total.or(Some(after.min(CEILING)));
        }
        let mut overage = self.reading().used(&charge.agreement, OVERAGE)?;
        if beyond != Usage::default() {
            overage = overage.plus(beyond).min(CEILING);
            self.set(&charge.agreement, OVERAGE, overage)?;
        }
        Ok((total, overage))
    }

    fn set(&self, agreement: &AgreementId, bucket: &str, usage: Usage) -> rusqlite::Result<usize> {
        let sql =
            "INSERT OR REPLACE INTO usage (agreement, bucket, sum, calls, fuel, wall_us, egress_bytes) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
        let Usage { calls, fuel, wall_us, egress_bytes } = usage;
        let sums = [calls, fuel, wall_us, egress_bytes].map(stored);
        let uuid = agreement.uuid();
        let head = [Part::Bytes(uuid.as_bytes()), Part::Bytes(bucket.as_bytes())];
        let sum = Parts::of(Table::Usage, &head, &sums.map(Part::Number)).sum();
        run(self.connection, sql, (uuid.as_bytes(), bucket, sum, sums[0], sums[1], sums[2], sums[3]))
    }

    fn append(&self, append: &Append) -> Result<u64, Stop> {
        let index = match self.next {
            Some(next) => next,
            None => self.reading().log_size()?,
        };
        let uuid = append.operation.uuid();
        match self.put_entry(stored(index), uuid.as_bytes(), &append.leaf, &append.entry)? {
            0 => Err(Rejected::Logged { operation: append.operation }.into()),
            _ => Ok(index),
        }
    }

    fn put_entry(&self, position: i64, operation: &[u8], leaf: &[u8], entry: &[u8]) -> rusqlite::Result<usize> {
        let sum = Parts::of_log(position, operation, leaf, !entry.is_empty()).sum();
        let sql = "INSERT INTO log (position, operation, leaf, sum, entry) VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (operation) DO NOTHING";
        run(self.connection, sql, (position, operation, leaf, sum, entry))
    }

    /// Takes the row away and puts what stays of it back: pages are merged, and so made free for what comes, only where rows go.
    fn prune(&self, position: i64) -> rusqlite::Result<()> {
        let sql = "SELECT operation, leaf, length(entry) > 0, sum FROM log WHERE position = ?1";
        let mut statement = self.connection.prepare_cached(sql)?;
        let read = |row: &Row<'_>| {
            let body = [Part::of(row, 0)?, Part::of(row, 1)?, Part::of(row, 2)?];
            self.damage.check(&Parts::of(Table::Log, &[Part::Number(position)], &body), row.get(3)?)?;
            Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, Vec<u8>>(1)?))
        };
        let Some((operation, leaf)) = statement.query_row([position], read).optional()? else { return Ok(()) };
        run(self.connection, "DELETE FROM log WHERE position = ?1", [position])?;
        self.put_entry(position, &operation, &leaf, &[]).map(drop)
    }

    fn state(&self, state: &StateWrites) -> Result<(), Stop> {
        let uuid = state.agent.uuid();
        let agent = uuid.as_bytes();
        let beside = tracking::beside(self.reading(), agent)?;
        let (before, mut changes) = (beside.held, beside.changes);
        let mut after = before;
        for write in &state.writes {
            let size = |value: u64| write.key.len() as u64 + value;
            let old = self.length(agent, &write.key)?;
            if let Some(mark) = beside.mark
                && (old.is_some() || write.value.is_some())
            {
                changes += tracking::changed(self.reading(), agent, &write.key, mark)? as u64;
            }
            if let Some(old) = old {
                after = Held { keys: after.keys.saturating_sub(1), bytes: after.bytes.saturating_sub(size(old)) };
            }
            if let Some(value) = &write.value {
                after = Held { keys: after.keys + 1, bytes: after.bytes.saturating_add(size(value.len() as u64)) };
            }
            match &write.value {
                Some(value) => {
                    let sum = Parts::measured(Table::State, &[Part::Bytes(agent), Part::Bytes(write.key.as_bytes())], value).sum();
                    let sql = "INSERT OR REPLACE INTO state (agent, key, sum, value) VALUES (?1, ?2, ?3, ?4)";
                    run(self.connection, sql, (agent, &write.key, sum, value))?
                }
                None => run(self.connection, "DELETE FROM state WHERE agent = ?1 AND key = ?2", (agent, &write.key))?,
            };
        }
        Held::check(before, after, state.quota)?;
        Ok(tracking::put(self.reading(), agent, &Beside { held: after, changes, ..beside })?)
    }

    /// The length of the value of a key, if there is one.
    fn length(&self, agent: &[u8; 16], key: &str) -> rusqlite::Result<Option<u64>> {
        let head = [Part::Bytes(agent), Part::Bytes(key.as_bytes())];
        let mut statement = self.connection.prepare_cached("SELECT length(value), sum FROM state WHERE agent = ?1 AND key = ?2")?;
        let read = |row: &Row<'_>| {
            let length = row.get(0)?;
            self.damage.check_head(&Parts::unread(Table::State, &head, length), row.get(1)?)?;
            Ok(quantity(length))
        };
        match statement.query_row((agent, key), read).optional()? {
            Some(length) => Ok(Some(length)),
            None => self.damage.nothing(Table::State, &head).map(|()| None),
        }
    }

    fn record(&self, record: &RecordWrite) -> rusqlite::Result<usize> {
        let kind = record.kind.number();
        match &record.value {
            Some(value) => {
                let head = [Part::Number(kind.into()), Part::Bytes(record.id.as_bytes())];
                let sum = Parts::measured(Table::Record, &head, value).sum();
                let sql = "INSERT OR REPLACE INTO record (kind, id, sum, value) VALUES (?1, ?2, ?3, ?4)";
                run(self.connection, sql, (kind, &record.id, sum, value))
            }
            None => run(self.connection, "DELETE FROM record WHERE kind = ?1 AND id = ?2", (kind, &record.id)),
        }
    }

    fn node(&self, node: &TreeNode) -> rusqlite::Result<usize> {
        let position = stored(node.index);
        let sum = Parts::of(Table::Node, &[Part::Number(node.level.into()), Part::Number(position)], &[Part::Bytes(&node.hash)]).sum();
        let sql = "INSERT OR REPLACE INTO node (level, position, sum, hash) VALUES (?1, ?2, ?3, ?4)";
        run(self.connection, sql, (node.level, position, sum, node.hash))
    }
}

/// The most that a bucket can hold: quantities are signed on disk.
const CEILING: Usage = Usage { calls: i64::MAX as u64, fuel: i64::MAX as u64, wall_us: i64::MAX as u64, egress_bytes: i64::MAX as u64 };

/// Runs a statement, prepared once for each connection. How many rows it changed.
pub(super) fn run(connection: &Connection, sql: &str, params: impl Params) -> rusqlite::Result<usize> {
    connection.prepare_cached(sql)?.execute(params)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_saturates() {
        assert_eq!(stored(u64::MAX), i64::MAX);
        assert_eq!(quantity(stored(u64::MAX)), CEILING.calls);
        assert_eq!(quantity(stored(7)), 7);
    }
}
