//! Files and stdin, read within a bound.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use protocol::{Problem, error::Code};
use serde::de::DeserializeOwned;

/// The largest document read: a bundle with a thousand transitions takes a tenth of it.
pub(crate) const MAX_DOCUMENT: usize = 16 * 1024 * 1024;

/// Reads a file, or stdin where the path is `-`, of at most `max` bytes.
pub(crate) fn read(path: &Path, max: usize) -> Result<Vec<u8>, Problem> {
    let name = name(path);
    let read =
        if path.as_os_str() == "-" { bounded(io::stdin().lock(), max) } else { File::open(path).and_then(|file| bounded(file, max)) };
    match read {
        Ok(bytes) if bytes.len() > max => Err(Problem::new(Code::TooLarge, format!("{name} is over {max} bytes"))),
        Ok(bytes) => Ok(bytes),
        Err(error) => Err(unreadable(&name, &error)),
    }
}

/// Reads a JSON document.
pub(crate) fn document<T: DeserializeOwned>(path: &Path, kind: &str) -> Result<T, Problem> {
    let bytes = read(path, MAX_DOCUMENT)?;
    serde_json::from_slice(&bytes).map_err(|error| Problem::new(Code::MalformedDocument, format!("{} is not {kind}: {error}", name(path))))
}

/// Writes a file, replacing one that is there.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<(), Problem> {
    std::fs::write(path, bytes).map_err(|error| Problem::new(Code::InvalidRequest, format!("can't write {}: {error}", path.display())))
}

fn bounded(source: impl Read, max: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // One byte more than allowed tells that there is more.
    source.take(max as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn name(path: &Path) -> String {
    if path.as_os_str() == "-" { "stdin".into() } else { path.display().to_string() }
}

fn unreadable(name: &str, error: &io::Error) -> Problem {
    let code = if error.kind() == io::ErrorKind::NotFound { Code::NotFound } else { Code::InvalidRequest };
    Problem::new(code, format!("can't read {name}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_up_to_the_bound_and_not_a_byte_more() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("file");
        write(&path, b"1234").expect("write");
        assert_eq!(read(&path, 4).expect("within"), b"1234");
        assert_eq!(read(&path, 3).expect_err("over").code, Code::TooLarge);
        assert_eq!(read(&dir.path().join("none"), 3).expect_err("missing").code, Code::NotFound);
        assert_eq!(document::<Vec<u8>>(&path, "a list").expect_err("a number").code, Code::MalformedDocument);
    }
}
