//! Content digests, written `blake3:<hex>` for content and `sha256:<hex>` where a standard asks for it.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// A 256-bit digest and the function that made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Digest {
    /// BLAKE3, for content.
    Blake3([u8; 32]),
    /// SHA-256, where a standard asks for it.
    Sha256([u8; 32]),
}

/// A text that isn't `blake3:` or `sha256:` and 64 lower-case hexadecimal digits.
#[derive(Debug, thiserror::Error)]
#[error("a digest is 'blake3:' or 'sha256:' and 64 lower-case hexadecimal digits")]
pub struct InvalidDigest;

impl Digest {
    /// The BLAKE3 digest of `content`.
    pub fn blake3(content: &[u8]) -> Self {
        Self::Blake3(*blake3::hash(content).as_bytes())
    }

    /// The SHA-256 digest of `content`.
    pub fn sha256(content: &[u8]) -> Self {
        Self::Sha256(Sha256::digest(content).into())
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        match self {
            Self::Blake3(bytes) | Self::Sha256(bytes) => bytes,
        }
    }

    /// The 64 hexadecimal digits alone, as file names use them.
    pub fn hex(&self) -> String {
        hex(self.as_bytes())
    }

    /// Whether this is the digest of `content`.
    pub fn matches(&self, content: &[u8]) -> bool {
        match self {
            Self::Blake3(_) => *self == Self::blake3(content),
            Self::Sha256(_) => *self == Self::sha256(content),
        }
    }
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let pair = |b: &u8| [DIGITS[usize::from(b >> 4)] as char, DIGITS[usize::from(b & 15)] as char];
    bytes.iter().flat_map(pair).collect()
}

/// Decodes lower-case hexadecimal of exactly 32 bytes.
pub fn unhex32(text: &str) -> Option<[u8; 32]> {
    unhex(text)
}

/// Decodes lower-case hexadecimal of exactly `N` bytes.
pub fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |b: u8| match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'a'..=b'f' => Some(b - b'a' + 10),
        _ => None,
    };
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
    let mut bytes = [0; N];
    if pairs.len() != N {
        return None;
    }
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Blake3(_) => "blake3",
            Self::Sha256(_) => "sha256",
        };
        write!(f, "{name}:{}", self.hex())
    }
}

impl FromStr for Digest {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        let (name, digits) = text.split_once(':').ok_or(InvalidDigest)?;
        let bytes = unhex32(digits).ok_or(InvalidDigest)?;
        match name {
            "blake3" => Ok(Self::Blake3(bytes)),
            "sha256" => Ok(Self::Sha256(bytes)),
            _ => Err(InvalidDigest),
        }
    }
}

impl TryFrom<String> for Digest {
    type Error = InvalidDigest;

    fn try_from(text: String) -> Result<Self, InvalidDigest> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips() {
        for digest in [Digest::blake3(b"x"), Digest::sha256(b"x")] {
            assert_eq!(digest.to_string().parse::<Digest>().expect("own text"), digest);
            assert!(digest.matches(b"x") && !digest.matches(b"y"));
        }
        assert!("blake3:00".parse::<Digest>().is_err());
        assert!(Digest::blake3(b"x").to_string().to_uppercase().parse::<Digest>().is_err());
    }
}
