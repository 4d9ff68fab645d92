//! What is read, each row held against its sum. A row that doesn't match it is an error, never an answer.

use protocol::{
    AgreementId, OperationId, Usage,
    merkle::{Hash, leaf_hash},
};
use rusqlite::{Connection, OptionalExtension as _, Row};

use super::{
    damage::Damage,
    quantity, rows,
    sum::{Part, Parts, Table},
};
use crate::{
    LoggedEntry,
    commit::{Answer, Kind},
    error::DamagedRow,
};

/// A connection, and what is known to be damaged in what it reads.
#[derive(Clone, Copy)]
pub(super) struct Reading<'a> {
    pub(super) connection: &'a Connection,
    pub(super) damage: &'a Damage,
}

impl Reading<'_> {
    /// The value of a key of an agent's state.
    pub(super) fn state(self, agent: &[u8; 16], key: &str) -> rusqlite::Result<Option<Vec<u8>>> {
        let head = [Part::Bytes(agent), Part::Bytes(key.as_bytes())];
        self.value(Table::State, "SELECT value, sum FROM state WHERE agent = ?1 AND key = ?2", (agent, key), &head)
    }

    pub(super) fn record(self, kind: Kind, id: &str) -> rusqlite::Result<Option<Vec<u8>>> {
        let head = [Part::Number(kind.number().into()), Part::Bytes(id.as_bytes())];
        self.value(Table::Record, "SELECT value, sum FROM record WHERE kind = ?1 AND id = ?2", (kind.number(), id), &head)
    }

    /// A value that stands under a key; `sql` reads it and its sum.
    fn value(self, table: Table, sql: &str, key: impl rusqlite::Params, head: &[Part<'_>]) -> rusqlite::Result<Option<Vec<u8>>> {
        let read = |row: &Row<'_>| {
            let value: Vec<u8> = self.whole(table, row, (0, 1), head)?;
            Ok(value)
        };
        match self.connection.prepare_cached(sql)?.query_row(key, read).optional()? {
            Some(value) => Ok(Some(value)),
            None => self.damage.nothing(table, head).map(|()| None),
        }
    }

    /// The value in a column, once row and sum agree.
    fn whole(self, table: Table, row: &Row<'_>, (value, sum): (usize, usize), head: &[Part<'_>]) -> rusqlite::Result<Vec<u8>> {
        let bytes = match Part::of(row, value)? {
            Part::Bytes(bytes) => bytes,
            // Of another type than was written: it has another sum.
            Part::Nothing | Part::Number(_) => &[],
        };
        self.damage.check(&Parts::measured(table, head, bytes), row.get(sum)?)?;
        row.get(value)
    }

    /// Records of a kind from an id on. Those that are damaged are left out if `damaged` takes them, and an error otherwise.
    pub(super) fn records(
        self,
        kind: Kind,
        from: &str,
        limit: usize,
        mut damaged: Option<&mut Vec<DamagedRow>>,
    ) -> rusqlite::Result<Vec<(String, Vec<u8>)>> {
        let sql = "SELECT id, value, sum FROM record WHERE kind = ?1 AND id >= ?2 ORDER BY id";
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut found = statement.query((kind.number(), from))?;
        let mut records = Vec::new();
        while records.len() < limit
            && let Some(row) = found.next()?
        {
            match self.pair(Table::Record, Part::Number(kind.number().into()), row) {
                Ok(record) => records.push(record),
                Err(error) => match (super::damage::row_of(&error), &mut damaged) {
                    (Some(row), Some(damaged)) => damaged.push(row.clone()),
                    _ => return Err(error),
                },
            }
        }
        if records.len() < limit {
            self.lost(Table::Record, &[Part::Number(kind.number().into())], damaged)?;
        }
        Ok(records)
    }

    /// What was written under such keys, and can't be found there any more.
    fn lost(self, table: Table, key: &[Part<'_>], damaged: Option<&mut Vec<DamagedRow>>) -> rusqlite::Result<()> {
        match (self.damage.nothing(table, key), damaged) {
            (Err(error), Some(damaged)) => {
                damaged.extend(super::damage::row_of(&error).cloned());
                Ok(())
            }
            (result, _) => result,
        }
    }

    /// A row of a key, a value and its sum.
    fn pair(self, table: Table, group: Part<'_>, row: &Row<'_>) -> rusqlite::Result<(String, Vec<u8>)> {
        let head = [group, Part::of(row, 0)?];
        let value = self.whole(table, row, (1, 2), &head)?;
        Ok((row.get(0)?, value))
    }

    /// Keys of an agent's state from one on with their values, until they have so many bytes.
    pub(super) fn scan(self, agent: &[u8; 16], from: &str, bytes: usize) -> rusqlite::Result<Vec<(String, Vec<u8>)>> {
        let sql = "SELECT key, value, sum FROM state WHERE agent = ?1 AND key >= ?2 ORDER BY key";
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut found = statement.query((agent, from))?;
        let (mut pairs, mut size) = (Vec::new(), 0);
        while size < bytes
            && let Some(row) = found.next()?
        {
            let pair = self.pair(Table::State, Part::Bytes(agent), row)?;
            size += pair.0.len() + pair.1.len();
            pairs.push(pair);
        }
        self.damage.nothing(Table::State, &[Part::Bytes(agent)])?;
        Ok(pairs)
    }

    /// Keys of an agent's state from one on that begin with `prefix`. Their values aren't read.
    pub(super) fn list(self, agent: &[u8; 16], prefix: &str, from: &str, limit: usize) -> rusqlite::Result<Vec<String>> {
        let sql = "SELECT key, length(value), sum FROM state WHERE agent = ?1 AND key >= ?2 ORDER BY key";
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut found = statement.query((agent, from))?;
        let mut keys = Vec::new();
        while keys.len() < limit
            && let Some(row) = found.next()?
        {
            let head = [Part::Bytes(agent), Part::of(row, 0)?];
            self.check_unread(&head, row)?;
            let key: String = row.get(0)?;
            if !key.starts_with(prefix) {
                break;
            }
            keys.push(key);
        }
        self.damage.nothing(Table::State, &[Part::Bytes(agent)])?;
        Ok(keys)
    }

    fn check_unread(self, head: &[Part<'_>], row: &Row<'_>) -> rusqlite::Result<()> {
        let sum: i64 = row.get(2)?;
        let unread = Parts::unread(Table::State, head, row.get(1)?);
        if unread.unsound_head(sum).is_none() {
            return Ok(());
        }
        // With its content it can be told whether key or sum changed.
        if let [Part::Bytes(agent), Part::Bytes(key)] = head
            && let Ok(key) = std::str::from_utf8(key)
        {
            let sql = "SELECT value FROM state WHERE agent = ?1 AND key = ?2";
            let value: Option<Vec<u8>> = self.connection.prepare_cached(sql)?.query_row((agent, key), |row| row.get(0)).optional()?;
            if let Some(value) = value {
                self.damage.check(&Parts::measured(Table::State, head, &value), sum)?;
            }
        }
        self.damage.check_head(&unread, sum)
    }

    pub(super) fn usage(self, agreement: &AgreementId) -> rusqlite::Result<Vec<(String, Usage)>> {
        let sql = "SELECT bucket, calls, fuel, wall_us, egress_bytes, sum FROM usage WHERE agreement = ?1 ORDER BY bucket";
        let uuid = agreement.uuid();
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut found = statement.query([uuid.as_bytes()])?;
        let mut buckets = Vec::new();
        while let Some(row) = found.next()? {
            self.check_usage(uuid.as_bytes(), Part::of(row, 0)?, row, 1)?;
            buckets.push((row.get(0)?, usage_of(row, 1)?));
        }
        self.damage.nothing(Table::Usage, &[Part::Bytes(uuid.as_bytes())])?;
        Ok(buckets)
    }

    /// One bucket.
    pub(super) fn used(self, agreement: &AgreementId, bucket: &str) -> rusqlite::Result<Usage> {
        let sql = "SELECT calls, fuel, wall_us, egress_bytes, sum FROM usage WHERE agreement = ?1 AND bucket = ?2";
        let uuid = agreement.uuid();
        let (agreement, name) = (uuid.as_bytes(), Part::Bytes(bucket.as_bytes()));
        let read = |row: &Row<'_>| {
            self.check_usage(agreement, name, row, 0)?;
            usage_of(row, 0)
        };
        match self.connection.prepare_cached(sql)?.query_row((agreement, bucket), read).optional()? {
            Some(used) => Ok(used),
            None => self.damage.nothing(Table::Usage, &[Part::Bytes(agreement), name]).map(|()| Usage::default()),
        }
    }

    fn check_usage(self, agreement: &[u8; 16], bucket: Part<'_>, row: &Row<'_>, from: usize) -> rusqlite::Result<()> {
        let body = (from..from + 4).map(|column| Part::of(row, column)).collect::<rusqlite::Result<Vec<_>>>()?;
        self.damage.check(&Parts::of(Table::Usage, &[Part::Bytes(agreement), bucket], &body), row.get(from + 4)?)
    }

    /// The answer kept under a key, and when it expires.
    pub(super) fn answer(self, scope: &str, key: &str) -> rusqlite::Result<Option<(Vec<u8>, i64)>> {
        let sql = "SELECT expires, value, sum FROM answer WHERE scope = ?1 AND key = ?2";
        let (of_scope, of_key) = (Part::Bytes(scope.as_bytes()), Part::Bytes(key.as_bytes()));
        let read = |row: &Row<'_>| {
            let head = [of_scope, of_key, Part::of(row, 0)?];
            let value = self.whole(Table::Answer, row, (1, 2), &head)?;
            Ok((value, row.get(0)?))
        };
        match self.connection.prepare_cached(sql)?.query_row((scope, key), read).optional()? {
            Some(answer) => Ok(Some(answer)),
            None => self.damage.nothing(Table::Answer, &[of_scope, of_key]).map(|()| None),
        }
    }

    /// Answers after one whose scope begins so.
    pub(super) fn answers(self, prefix: &str, after: Option<&(String, String)>, now_s: i64, limit: usize) -> rusqlite::Result<Vec<Answer>> {
        let sql = "SELECT scope, key, expires, value, sum FROM answer
            WHERE (scope, key) > (?1, ?2) AND scope < ?3 AND expires > ?4 ORDER BY scope, key LIMIT ?5";
        // No text that begins with the prefix comes after the prefix and the last character there is.
        let end = format!("{prefix}\u{10ffff}");
        let (from, key) = after.map_or((prefix, ""), |(scope, key)| (scope, key));
        let read = |row: &Row<'_>| {
            let head = [Part::of(row, 0)?, Part::of(row, 1)?, Part::of(row, 2)?];
            let value = self.whole(Table::Answer, row, (3, 4), &head)?;
            Ok(Answer { scope: row.get(0)?, key: row.get(1)?, value, now_s, expires_s: row.get(2)? })
        };
        let mut statement = self.connection.prepare_cached(sql)?;
        let answers = statement.query_map((from, key, end, now_s, rows(limit)), read)?.collect::<rusqlite::Result<Vec<_>>>()?;
        self.damage.nothing(Table::Answer, &[])?;
        Ok(answers)
    }

    /// How many entries the log has: they are dense, and the last row is found at once.
    pub(super) fn log_size(self) -> rusqlite::Result<u64> {
        let sql = "SELECT position, operation, leaf, length(entry) > 0, sum FROM log ORDER BY position DESC LIMIT 1";
        let read = |row: &Row<'_>| {
            let position = row.get(0)?;
            // Whatever has become of the rest: this is about its place.
            let body = [Part::of(row, 1)?, Part::of(row, 2)?, Part::of(row, 3)?];
            self.damage.check_head(&Parts::of(Table::Log, &[Part::Number(position)], &body), row.get(4)?)?;
            Ok(position)
        };
        match self.connection.prepare_cached(sql)?.query_row([], read).optional()? {
            Some(last) => Ok(quantity(last) + 1),
            None => Ok(0),
        }
    }

    pub(super) fn entries(self, from: i64, limit: usize) -> rusqlite::Result<Vec<LoggedEntry>> {
        let sql = "SELECT position, operation, leaf, entry, sum FROM log WHERE position >= ?1 ORDER BY position LIMIT ?2";
        let mut statement = self.connection.prepare_cached(sql)?;
        let read = |row: &Row<'_>| self.logged(row);
        statement.query_map((from, rows(limit)), read)?.collect()
    }

    pub(super) fn entry_of(self, operation: &OperationId) -> rusqlite::Result<Option<LoggedEntry>> {
        let sql = "SELECT position, operation, leaf, entry, sum FROM log WHERE operation = ?1";
        let mut statement = self.connection.prepare_cached(sql)?;
        match statement.query_row([operation.uuid().as_bytes()], |row| self.logged(row)).optional()? {
            Some(logged) => Ok(Some(logged)),
            None => self.damage.nothing_else(Table::Log).map(|()| None),
        }
    }

    fn logged(self, row: &Row<'_>) -> rusqlite::Result<LoggedEntry> {
        if let Some(row) = super::damage::damaged(Table::Log, row)? {
            return Err(self.damage.found(row));
        }
        Ok(LoggedEntry { index: quantity(row.get(0)?), leaf: row.get(2)?, entry: row.get(3)? })
    }

    pub(super) fn leaves(self, from: i64, limit: usize) -> rusqlite::Result<Vec<Hash>> {
        let sql = "SELECT position, operation, leaf, length(entry) > 0, sum FROM log WHERE position >= ?1 ORDER BY position LIMIT ?2";
        let read = |row: &Row<'_>| {
            let body = [Part::of(row, 1)?, Part::of(row, 2)?, Part::of(row, 3)?];
            let parts = Parts::of(Table::Log, &[Part::of(row, 0)?], &body);
            match self.damage.check(&parts, row.get(4)?) {
                Ok(()) => row.get(2),
                Err(error) => self.leaf_again(row, error),
            }
        };
        let mut statement = self.connection.prepare_cached(sql)?;
        statement.query_map((from, rows(limit)), read)?.collect()
    }

    /// A leaf is the hash of its entry: if it is the leaf that is damaged, the entry still says what it was.
    fn leaf_again(self, row: &Row<'_>, error: rusqlite::Error) -> rusqlite::Result<Hash> {
        let position: i64 = row.get(0)?;
        let sql = "SELECT entry FROM log WHERE position = ?1";
        let entry: Vec<u8> = self.connection.prepare_cached(sql)?.query_row([position], |row| row.get(0))?;
        let leaf = leaf_hash(&entry);
        let Part::Bytes(operation) = Part::of(row, 1)? else { return Err(error) };
        match Parts::of_log(position, operation, &leaf, !entry.is_empty()).unsound(Part::of(row, 4)?) {
            None => Ok(leaf),
            Some(_) => Err(error),
        }
    }

    pub(super) fn nodes(self, level: u8, from: u64, limit: usize) -> rusqlite::Result<Vec<Hash>> {
        let sql = "SELECT position, hash, sum FROM node WHERE level = ?1 AND position >= ?2 ORDER BY position LIMIT ?3";
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut found = statement.query((level, super::stored(from), rows(limit)))?;
        let mut hashes = Vec::new();
        while let Some(row) = found.next()? {
            let parts = Parts::of(Table::Node, &[Part::Number(level.into()), Part::of(row, 0)?], &[Part::of(row, 1)?]);
            self.damage.check(&parts, row.get(2)?)?;
            if quantity(row.get(0)?) != from + hashes.len() as u64 {
                break;
            }
            hashes.push(row.get(1)?);
        }
        Ok(hashes)
    }
}

pub(super) fn usage_of(row: &Row<'_>, from: usize) -> rusqlite::Result<Usage> {
    let column = |at: usize| Ok::<_, rusqlite::Error>(quantity(row.get(from + at)?));
    Ok(Usage { calls: column(0)?, fuel: column(1)?, wall_us: column(2)?, egress_bytes: column(3)? })
}
