//! Opening the file: what is ours, of which version, and how it is set up.
//!
//! ```text
//! nothing there ─► made whole beside it, renamed ─┐
//! something there ─► its first bytes, then SQL ───┴─► ours? ─► not newer than us? ─► migrate forwards ─► writer
//! ```
//!
//! Nothing is written before both questions are answered, so that a file that is refused stays as it was.

use std::{
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, OpenFlags, TransactionBehavior, config::DbConfig, types::ToSqlOutput};

use super::{
    failed,
    sum::{Layout, Parts, Table},
    wal,
};
use crate::{blobs, error::Error};

/// Marks the file as ours (`MCP0`), in bytes 68 to 71 of the file, where `file(1)` finds it too.
const APPLICATION: i32 = 0x4d43_5030;

/// One step for each version. A step that was released never changes: add the next one, and a fixture of the last.
const MIGRATIONS: &[&str] = &[include_str!("v1.sql"), include_str!("v2.sql"), include_str!("v3.sql"), include_str!("v4.sql")];
/// The version from which on rows have sums.
const WITH_SUMS: u32 = 4;

/// The newest version this program knows.
pub(super) const VERSION: u32 = MIGRATIONS.len() as u32;

/// How long the writer waits for another process (a backup, a curious shell) that holds the lock.
pub(super) const WRITER_PATIENCE: Duration = Duration::from_secs(10);
/// Readers wait only while another process recovers or vacuums, and do it on the runtime's threads: not for long.
const READER_PATIENCE: Duration = Duration::from_secs(1);

/// Opens the writer's connection.
pub(super) fn open_writer(path: &Path) -> Result<Connection, Error> {
    if !path.try_exists().map_err(Error::files("look at", path))? {
        create(path)?;
    }
    recognise(path)?;
    wal::check(path, &beside(path, "-wal"))?;
    let mut connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)
        .map_err(failed("open its file"))?;
    connection.busy_timeout(WRITER_PATIENCE).map_err(failed("set it up"))?;
    // Closing would copy the write-ahead log into a file that we may yet refuse.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(failed("set it up"))?;
    let found = version(&connection)?;
    known(path, found)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false).map_err(failed("set it up"))?;
    if found < VERSION {
        migrate(&mut connection, found)?;
        // The version reaches the file itself, where an older program looks first.
        checkpoint(&connection)?;
    }
    as_made(&connection)?;
    settle(&connection)?;
    Ok(connection)
}

/// Opens a connection that only reads.
pub(super) fn open_reader(path: &Path) -> Result<Connection, Error> {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)
        .map_err(failed("open its file"))?;
    connection.busy_timeout(READER_PATIENCE).map_err(failed("set it up"))?;
    // 512 KiB each: there may be many, and the system's page cache stands behind them.
    connection.pragma_update(None, "cache_size", -512).map_err(failed("set it up"))?;
    Ok(connection)
}

/// Copies the write-ahead log into the file and empties it, as far as readers allow. Says whether they did.
pub(super) fn checkpoint(connection: &Connection) -> Result<bool, Error> {
    let busy: i64 =
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0)).map_err(failed("empty its write-ahead log"))?;
    Ok(busy == 0)
}

/// Makes the whole file under another name first: at `path` there is a store or nothing, whenever power fails.
fn create(path: &Path) -> Result<(), Error> {
    // SQLite would replay a left-over log into the new file.
    if beside(path, "-wal").exists() {
        return Err(Error::Foreign { path: path.into(), why: "it is gone, but its write-ahead log (-wal) is there" });
    }
    let fresh = beside(path, ".new");
    for suffix in [".new", ".new-journal", ".new-wal", ".new-shm"] {
        let left = beside(path, suffix);
        match fs::remove_file(&left) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(Error::files("remove", left)(error)),
            Ok(()) | Err(_) => {}
        }
    }
    // SQLite's other files take over this mode.
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh).map_err(Error::files("create", &fresh))?;
    let mut connection = Connection::open(&fresh).map_err(failed("create its file"))?;
    migrate(&mut connection, 0)?;
    connection.pragma_update(None, "journal_mode", "WAL").map_err(failed("create its file"))?;
    connection.close().map_err(|(_, error)| failed("create its file")(error))?;
    File::open(&fresh).and_then(|file| file.sync_all()).map_err(Error::files("flush", &fresh))?;
    fs::rename(&fresh, path).map_err(Error::files("rename to", path))?;
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => blobs::flush(parent),
        _ => blobs::flush(Path::new(".")),
    }
}

/// Judges the file by its header (<https://www.sqlite.org/fileformat.html#the_database_header>), without SQLite.
fn recognise(path: &Path) -> Result<(), Error> {
    let mut header = Vec::with_capacity(100);
    File::open(path).and_then(|file| file.take(100).read_to_end(&mut header)).map_err(Error::files("read", path))?;
    let foreign = |why| Err(Error::Foreign { path: path.into(), why });
    if header.is_empty() {
        return foreign("it is empty");
    }
    if header.len() < 100 || !header.starts_with(b"SQLite format 3\0") {
        return foreign("it is not an SQLite database");
    }
    let number = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    if number(68) != APPLICATION as u32 {
        return foreign("it is the database of another program");
    }
    known(path, number(60))
}

fn known(path: &Path, found: u32) -> Result<(), Error> {
    if found <= VERSION { Ok(()) } else { Err(Error::MigrationNeeded { path: path.into(), found, known: VERSION }) }
}

/// The version as SQL sees it, with what is still in the write-ahead log.
fn version(connection: &Connection) -> Result<u32, Error> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(failed("read its version"))
}

/// All steps from a version to the newest, in one transaction.
fn migrate(connection: &mut Connection, from: u32) -> Result<(), Error> {
    let mut run = || -> rusqlite::Result<()> {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for (step, version) in MIGRATIONS.iter().zip(1..).skip(from as usize) {
            transaction.execute_batch(step)?;
            if version == WITH_SUMS {
                add_sums(&transaction)?;
            }
        }
        transaction.pragma_update(None, "application_id", APPLICATION)?;
        transaction.pragma_update(None, "user_version", VERSION)?;
        transaction.commit()
    };
    run().map_err(failed("migrate"))
}

/// Copies all rows into the tables that have sums. Takes as long as it takes to copy the file.
fn add_sums(connection: &Connection) -> rusqlite::Result<()> {
    for table in Table::ALL {
        let Layout { name, columns, .. } = table.layout();
        let values = columns.rsplit_once(", sum").map_or(columns, |(values, _)| values);
        let count = columns.split(", ").count();
        let places: Vec<String> = (1..=count).map(|place| format!("?{place}")).collect();
        let mut insert = connection.prepare(&format!("INSERT INTO {name} ({columns}) VALUES ({})", places.join(", ")))?;
        let mut select = connection.prepare(&format!("SELECT {values}, NULL FROM old_{name}"))?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            let (parts, _) = Parts::read(table, row)?;
            for column in 0..count - 1 {
                insert.raw_bind_parameter(column + 1, ToSqlOutput::Borrowed(row.get_ref(column)?))?;
            }
            insert.raw_bind_parameter(count, parts.sum())?;
            insert.raw_execute()?;
        }
        drop(rows);
        connection.execute_batch(&format!("DROP TABLE old_{name}"))?;
    }
    Ok(())
}

/// Refuses a file whose tables aren't as this program makes them: a bit that flipped in a definition would change what is read.
fn as_made(connection: &Connection) -> Result<(), Error> {
    let read = |connection: &Connection| -> rusqlite::Result<Vec<[Option<String>; 4]>> {
        let mut statement = connection.prepare("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY name")?;
        statement.query_map([], |row| Ok([row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?]))?.collect()
    };
    let mut made = Connection::open_in_memory().map_err(failed("set it up"))?;
    migrate(&mut made, 0)?;
    match (read(connection), read(&made).map_err(failed("set it up"))?) {
        (Ok(found), made) if found == made => Ok(()),
        (Ok(_), _) => Err(Error::Damaged { what: "the definitions of its tables are not the ones that it was made with".into() }),
        (Err(error), _) => Err(Error::Damaged { what: format!("the definitions of its tables can't be read: {error}") }),
    }
}

/// The writer's settings, as measured (see ARCHITECTURE.md).
fn settle(connection: &Connection) -> Result<(), Error> {
    let settings = || -> rusqlite::Result<()> {
        // The mode is part of the file; setting it again repairs a file that someone switched.
        connection.pragma_update(None, "journal_mode", "WAL")?;
        // Acknowledged means flushed.
        connection.pragma_update(None, "synchronous", "FULL")?;
        // 16 MiB: rarer checkpoints rewrite hot pages less often.
        connection.pragma_update(None, "wal_autocheckpoint", 4000)?;
        connection.pragma_update(None, "journal_size_limit", 16 << 20)?;
        // At most 16 MiB, filled by use: a lone writer touches few pages, and the system caches the rest.
        connection.pragma_update(None, "cache_size", -16_384)?;
        connection.pragma_update(None, "temp_store", "MEMORY")?;
        connection.set_prepared_statement_cache_capacity(64);
        Ok(())
    };
    settings().map_err(failed("set it up"))
}

/// The path of a file that stands beside another.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
