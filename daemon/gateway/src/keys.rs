//! Static API keys: from environment or file, held as digests only.

use std::{env, fs::File, io::Read as _, path::Path};

use protocol::Digest;
use subtle::{Choice, ConstantTimeEq as _};
use zeroize::Zeroizing;

use crate::error::Error;

/// A key of fewer characters can be guessed.
pub(crate) const MIN_LENGTH: usize = 16;
/// All are compared at each request, so that the time tells nothing.
const MAX_KEYS: usize = 256;
/// The text of so many keys of 250 characters.
const MAX_TEXT: u64 = 64 * 1024;

/// Static keys' digests.
#[derive(Debug, Default)]
pub(crate) struct StaticKeys(Vec<Digest>);

impl StaticKeys {
    /// Those of `MCP_API_KEYS` and of the file that `MCP_API_KEYS_FILE` names.
    pub(crate) fn load() -> Result<Self, Error> {
        let mut keys = Self::default();
        match env::var("MCP_API_KEYS").map(Zeroizing::new) {
            Ok(text) => keys.add(&text, "MCP_API_KEYS")?,
            Err(env::VarError::NotPresent) => {}
            Err(env::VarError::NotUnicode(_)) => return Err(Error::NotText("MCP_API_KEYS".into())),
        }
        if let Some(path) = env::var_os("MCP_API_KEYS_FILE").filter(|path| !path.is_empty()) {
            keys.add(&read(path.as_ref())?, &Path::new(&path).display().to_string())?;
        }
        Ok(keys)
    }

    /// Adds those of a text, separated by commas or lines.
    fn add(&mut self, text: &str, source_name: &str) -> Result<(), Error> {
        let keys = text.split([',', '\n']).map(str::trim).filter(|key| !key.is_empty());
        for (place, key) in (1..).zip(keys) {
            if key.chars().count() < MIN_LENGTH {
                return Err(Error::ShortKey { place, source_name: source_name.into() });
            }
            if self.0.len() == MAX_KEYS {
                return Err(Error::TooManyKeys(source_name.into()));
            }
            self.0.push(Digest::sha256(key.as_bytes()));
        }
        Ok(())
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether one of them has this SHA-256; takes the same time whichever it is.
    pub(crate) fn contains(&self, digest: &Digest) -> bool {
        let equal = |key: &Digest| key.as_bytes().ct_eq(digest.as_bytes());
        self.0.iter().fold(Choice::from(0), |found, key| found | equal(key)).into()
    }
}

fn read(path: &Path) -> Result<Zeroizing<String>, Error> {
    // Reserved at once: growing would leave copies behind.
    let mut text = Zeroizing::new(String::with_capacity(MAX_TEXT as usize + 1));
    let read = File::open(path).and_then(|file| file.take(MAX_TEXT + 1).read_to_string(&mut text));
    match read {
        Ok(_) if text.len() as u64 > MAX_TEXT => Err(Error::TooManyKeys(path.display().to_string())),
        Ok(_) => Ok(text),
        Err(source) => Err(Error::KeyFile { path: path.into(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_known_by_their_digests() {
        let mut keys = StaticKeys::default();
        keys.add(" first-key-0123456789,,second-key-0123456789\nthird-key-0123456789\n", "test").expect("long enough");
        assert_eq!(keys.len(), 3);
        assert!(keys.contains(&Digest::sha256(b"second-key-0123456789")) && !keys.contains(&Digest::sha256(b"second-key-012345678")));
        assert!(!StaticKeys::default().contains(&Digest::sha256(b"")));
        assert!(!format!("{keys:?}").contains("second"));
    }

    #[test]
    fn a_short_key_is_named_by_place_only() {
        let error = StaticKeys::default().add("first-key-0123456789,hunter2", "MCP_API_KEYS").expect_err("short");
        assert_eq!(error.to_string(), "key 2 of MCP_API_KEYS has fewer than 16 characters");
        let many = vec!["first-key-0123456789"; MAX_KEYS + 1].join(",");
        assert!(matches!(StaticKeys::default().add(&many, "x"), Err(Error::TooManyKeys(_))));
    }
}
