//! Private keys at rest under a passphrase: PKCS#8 encrypted with PBES2 (RFC 8018), as OpenSSL reads and writes it.

use std::{fmt, io};

use ed25519_dalek::{SigningKey, pkcs8::EncodePrivateKey as _};
use pkcs8::{
    EncryptedPrivateKeyInfo, LineEnding, PrivateKeyInfo, SecretDocument,
    der::pem::PemLabel as _,
    pkcs5::{EncryptionScheme, pbes2, pbes2::Kdf, scrypt},
};
use zeroize::Zeroizing;

use crate::{
    error::{Code, Problem},
    key::{Error, Key},
};

/// The longest passphrase, in bytes.
const MAX: u64 = 1024;
/// scrypt's cost as OWASP's password cheat sheet has it for 16 MiB, which an edge node has to spare and OpenSSL reads by default:
/// N = 2^14, r = 8, p = 5.
const COST: (u8, u32, u32) = (14, 8, 5);
/// What a file may cost that others made: memory in bytes and passes of scrypt, rounds of PBKDF2. A damaged file may say anything.
const MAX_MEMORY: u64 = 256 << 20;
const MAX_PASSES: u16 = 16;
const MAX_ROUNDS: u32 = 10_000_000;

/// What a private key in a file is encrypted with. Zeroized when dropped; never in `Debug`.
#[derive(Clone)]
pub struct Passphrase(Zeroizing<String>);

impl Passphrase {
    /// A passphrase as it was typed, or as it stands in a file: one end of line after it isn't part of it.
    ///
    /// # Errors
    /// `invalid_config`: it is empty, or over 1,024 bytes.
    pub fn new(mut text: Zeroizing<String>) -> Result<Self, Problem> {
        let line = text.strip_suffix('\n').map_or(text.len(), str::len);
        text.truncate(line);
        let line = text.strip_suffix('\r').map_or(text.len(), str::len);
        text.truncate(line);
        match text.len() as u64 {
            0 => Err(Problem::new(Code::InvalidConfig, "the passphrase is empty")),
            1..=MAX => Ok(Self(text)),
            _ => Err(Problem::new(Code::InvalidConfig, format!("the passphrase is over {MAX} bytes"))),
        }
    }

    /// Reads a passphrase to the end of `source`.
    ///
    /// # Errors
    /// `invalid_config`: it can't be read, is empty, or over 1,024 bytes.
    pub fn read(source: impl io::Read) -> Result<Self, Problem> {
        // Room for all of it from the start: what grows leaves copies behind.
        let mut text = Zeroizing::new(String::with_capacity(MAX as usize + 3));
        let read = io::Read::read_to_string(&mut io::Read::take(source, MAX + 3), &mut text);
        read.map_err(|error| Problem::new(Code::InvalidConfig, format!("the passphrase can't be read: {error}")))?;
        Self::new(text)
    }

    /// The passphrase itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase(…)")
    }
}

/// Whether the text is a private key that needs a passphrase.
pub fn is_encrypted(pem: &str) -> bool {
    pem.trim_start().strip_prefix("-----BEGIN ").is_some_and(|rest| rest.starts_with(EncryptedPrivateKeyInfo::PEM_LABEL))
}

impl Key {
    /// Reads PKCS#8 PEM that is encrypted by PBES2: scrypt or PBKDF2 with SHA-256, and AES in CBC mode, as
    /// `openssl pkcs8 -topk8 -scrypt` and `-v2 aes256` write it.
    ///
    /// # Errors
    /// It isn't that, is of another cipher or a cost without measure, or the passphrase is wrong.
    pub fn from_encrypted_pem(pem: &str, passphrase: &Passphrase) -> Result<Self, Error> {
        let (label, document) = SecretDocument::from_pem(pem).map_err(|_| Error::Pem)?;
        if label != EncryptedPrivateKeyInfo::PEM_LABEL {
            return Err(Error::Pem);
        }
        let info = EncryptedPrivateKeyInfo::try_from(document.as_bytes()).map_err(|_| Error::Cipher)?;
        check(&info.encryption_algorithm)?;
        let plain = info.decrypt(passphrase.expose()).map_err(|_| Error::Passphrase)?;
        let key = PrivateKeyInfo::try_from(plain.as_bytes()).map_err(|_| Error::Passphrase)?;
        SigningKey::try_from(key).map(Self::from).map_err(|_| Error::Pem)
    }

    /// Writes PKCS#8 PEM that is encrypted by PBES2: scrypt and AES-256-CBC.
    pub fn to_encrypted_pem(&self, passphrase: &Passphrase) -> Zeroizing<String> {
        let (mut salt, mut iv) = ([0; 16], [0; 16]);
        getrandom::fill(&mut salt).and_then(|()| getrandom::fill(&mut iv)).expect("the operating system's entropy source answers");
        let (log_n, r, p) = COST;
        let cost = scrypt::Params::new(log_n, r, p, 32).expect("a cost that scrypt takes");
        let plain = self.bytes().to_pkcs8_der().expect("an Ed25519 key always encodes");
        let info = PrivateKeyInfo::try_from(plain.as_bytes()).expect("it was just encoded");
        let encrypted = pbes2::Parameters::scrypt_aes256cbc(cost, &salt, &iv)
            .map_err(Into::into)
            .and_then(|parameters| info.encrypt_with_params(parameters, passphrase.expose()))
            .and_then(|document| Ok(document.to_pem(EncryptedPrivateKeyInfo::PEM_LABEL, LineEnding::LF)?));
        encrypted.expect("salt, vector and cost fit")
    }
}

/// Refuses what would cost more than a key is worth.
fn check(scheme: &EncryptionScheme<'_>) -> Result<(), Error> {
    let EncryptionScheme::Pbes2(parameters) = scheme else { return Err(Error::Cipher) };
    let fits = match &parameters.kdf {
        Kdf::Scrypt(scrypt) => {
            let memory = u64::from(scrypt.block_size).saturating_mul(128).saturating_mul(scrypt.cost_parameter);
            memory <= MAX_MEMORY && scrypt.parallelization <= MAX_PASSES
        }
        Kdf::Pbkdf2(pbkdf2) => pbkdf2.iteration_count <= MAX_ROUNDS,
        _ => false,
    };
    if fits { Ok(()) } else { Err(Error::Cipher) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written by `openssl pkcs8 -topk8` (3.0) of RFC 8032's first test key under "correct horse": with `-v2 aes-256-cbc`
    /// (PBKDF2), and with `-scrypt`.
    const PBKDF2: &str = include_str!("passphrase/pbkdf2.pem");
    const SCRYPT: &str = include_str!("passphrase/scrypt.pem");

    fn passphrase(text: &str) -> Passphrase {
        Passphrase::new(Zeroizing::new(text.into())).expect("a passphrase")
    }

    #[test]
    fn what_openssl_encrypts_is_read() {
        for pem in [PBKDF2, SCRYPT] {
            let key = Key::from_encrypted_pem(pem, &passphrase("correct horse\n")).expect("openssl's own");
            assert!(crate::digest::hex(key.did().as_bytes()).starts_with("d75a980182b10ab7"));
            assert!(matches!(Key::from_encrypted_pem(pem, &passphrase("wrong horse")), Err(Error::Passphrase)));
        }
    }

    #[test]
    fn a_cost_without_measure_is_refused_unpaid() {
        let (_, document) = SecretDocument::from_pem(SCRYPT).expect("PEM");
        // The end of the parameters: N = 2^14, r = 8, p = 1.
        let (found, costly) = ([2, 2, 0x40, 0, 2, 1, 8, 2, 1, 1], [2, 2, 0x40, 0, 2, 1, 8, 2, 1, 0x7f]);
        let mut bytes = document.as_bytes().to_vec();
        let at = bytes.windows(found.len()).position(|window| window == found).expect("the cost");
        bytes[at..at + found.len()].copy_from_slice(&costly);
        let pem = SecretDocument::try_from(bytes).expect("DER").to_pem(EncryptedPrivateKeyInfo::PEM_LABEL, LineEnding::LF).expect("PEM");
        assert!(matches!(Key::from_encrypted_pem(&pem, &passphrase("correct horse")), Err(Error::Cipher)));
    }

    #[test]
    fn encrypted_keys_round_trip_and_no_two_files_are_alike() {
        let (key, right) = (Key::generate(), passphrase("päss phrase"));
        let (one, two) = (key.to_encrypted_pem(&right), key.to_encrypted_pem(&right));
        assert!(is_encrypted(&one) && !is_encrypted(&key.to_pem()));
        assert_ne!(*one, *two);
        assert_eq!(Key::from_encrypted_pem(&one, &right).expect("its own").did(), key.did());
        assert!(matches!(Key::from_encrypted_pem(&one, &passphrase("päss")), Err(Error::Passphrase)));
        assert!(matches!(Key::from_encrypted_pem(&key.to_pem(), &right), Err(Error::Pem)));
        assert!(Key::from_pem(&one).is_err(), "it isn't plain");
        let cut = &one[..one.len() / 2];
        assert!(Key::from_encrypted_pem(cut, &right).is_err());
    }

    #[test]
    fn passphrases_are_bounded_and_hidden() {
        assert_eq!(passphrase("a b \r\n").expose(), "a b ");
        assert_eq!(passphrase("a\n\n").expose(), "a\n", "one end of line alone");
        assert!(Passphrase::new(Zeroizing::new("\n".into())).is_err());
        assert!(Passphrase::read(&[b'x'; 1024][..]).is_ok() && Passphrase::read(&[b'x'; 1025][..]).is_err());
        assert!(Passphrase::read(&[0xff, 0xfe][..]).is_err(), "not UTF-8");
        assert!(!format!("{:?}", passphrase("secret")).contains("secret"));
    }
}
