//! The write-ahead log, before SQLite replays it.
//!
//! SQLite ends the log at the first frame whose checksum doesn't match, as a loss of power leaves it: a bit that flipped in the
//! middle would silently take back all commits after it. Here the frames behind it are looked at:
//!
//! ```text
//! frame … frame C │ frame ✗ … frame C │ frame       C: the last one of a transaction, which is flushed before the next begins
//!                           └── flushed ─┘ whole, and of this log: so what is wrong before it is damage, not a loss of power
//! ```
//! What is wrong in the last transaction can't be told from a loss of power. The format:
//! <https://www.sqlite.org/fileformat.html#the_write_ahead_log>.

use std::{
    fs::File,
    io::{BufReader, ErrorKind, Read},
    path::Path,
};

use crate::error::Error;

const HEADER: usize = 32;
const FRAME_HEADER: usize = 24;
const MAGIC: u32 = 0x377f_0682;

type Sum = (u32, u32);

/// Refuses a log in which commits that were durable would be lost.
pub(super) fn check(database: &Path, log: &Path) -> Result<(), Error> {
    let file = match File::open(log) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::files("open", log)(error)),
    };
    let length = file.metadata().map_err(Error::files("look at", log))?.len();
    if length < (HEADER + FRAME_HEADER) as u64 {
        return Ok(());
    }
    let page = page_size(database)?;
    match damaged_frame(&mut BufReader::with_capacity(1 << 20, file), page).map_err(Error::files("read", log))? {
        None => Ok(()),
        Some(frame) => Err(Error::Damaged {
            what: format!(
                "{}: frame {frame} isn't what was written, and commits follow it that were durable; moved away, the file's commits \
                 are lost, and what was in the database before them is there",
                log.display()
            ),
        }),
    }
}

fn page_size(database: &Path) -> Result<usize, Error> {
    let mut header = [0; 18];
    File::open(database).and_then(|mut file| file.read_exact(&mut header)).map_err(Error::files("read", database))?;
    match u16::from_be_bytes([header[16], header[17]]) {
        1 => Ok(65_536),
        size if size >= 512 && size.is_power_of_two() => Ok(size.into()),
        size => Err(Error::Damaged { what: format!("{} says that its pages have {size} bytes", database.display()) }),
    }
}

/// The first frame that is wrong though a later transaction of the same log is whole. Frames are counted from 0.
fn damaged_frame(log: &mut impl Read, page: usize) -> std::io::Result<Option<u64>> {
    let mut header = [0; HEADER];
    log.read_exact(&mut header)?;
    let number = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let told = number(0) & 1 == 1;
    let sound_as = |big_endian| sum((0, 0), &header[..24], big_endian) == (number(24), number(28));
    let sound = number(0) & !1 == MAGIC && sound_as(told) && number(8) as usize == page;
    // What says the byte order may be what flipped: nearly always it is this machine's.
    let big_endian = if sound { told } else { cfg!(target_endian = "big") };
    let computed = sum((0, 0), &header[..24], big_endian);
    let mut salts = sound.then(|| header[16..24].to_vec());
    let mut before = computed;
    let mut frame = vec![0; FRAME_HEADER + page];
    let (mut first, mut ended, mut at) = ((!sound).then_some(0), false, 0u64);
    while read_whole(log, &mut frame)? {
        let salts = salts.get_or_insert_with(|| frame[8..16].to_vec());
        let of = |at: usize| u32::from_be_bytes([frame[at], frame[at + 1], frame[at + 2], frame[at + 3]]);
        let written = (of(16), of(20));
        let computed = sum(sum(before, &frame[..8], big_endian), &frame[FRAME_HEADER..], big_endian);
        let whole = frame[8..16] == salts[..] && computed == written;
        match (first, whole) {
            (None, true) => {}
            (None, false) => first = Some(at),
            // A whole frame of this log, in a transaction after the one that has the wrong frame.
            (Some(first), true) if ended => return Ok(Some(first)),
            (Some(_), _) => {}
        }
        // A frame of an older log ends this one, but a single one may be of this log with a flipped salt.
        if first.is_some() && of(4) != 0 {
            ended = true;
        }
        before = written;
        at += 1;
    }
    Ok(None)
}

/// Whether there was another whole frame.
fn read_whole(log: &mut impl Read, frame: &mut [u8]) -> std::io::Result<bool> {
    match log.read_exact(frame) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// The log's own checksum, over pairs of 32-bit words.
fn sum((mut first, mut second): Sum, bytes: &[u8], big_endian: bool) -> Sum {
    for pair in bytes.chunks_exact(8) {
        let word = |at: usize| {
            let word = [pair[at], pair[at + 1], pair[at + 2], pair[at + 3]];
            if big_endian { u32::from_be_bytes(word) } else { u32::from_le_bytes(word) }
        };
        first = first.wrapping_add(word(0)).wrapping_add(second);
        second = second.wrapping_add(word(4)).wrapping_add(first);
    }
    (first, second)
}
