//! `pkcs11:` URIs (RFC 7512): which key in which token, and the module that speaks to it.
//!
//! ```text
//! pkcs11:token=ops;object=owner?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/etc/mcp-zero/pin
//! ```
//!
//! A PIN comes from a file alone: what stands in a URI is in configurations, logs and lists of processes.

use std::path::PathBuf;

use protocol::{Code, Problem};

/// The longest URI.
const MAX: usize = 2_048;

/// A key in a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Uri {
    text: String,
    /// The token's label.
    pub(super) token: Option<String>,
    pub(super) serial: Option<String>,
    pub(super) manufacturer: Option<String>,
    pub(super) model: Option<String>,
    pub(super) slot: Option<u64>,
    /// The key's label.
    pub(super) object: Option<String>,
    /// The key's CKA_ID.
    pub(super) id: Option<Vec<u8>>,
    /// The shared library that speaks to the token.
    pub(super) module: PathBuf,
    /// The file with the user's PIN.
    pub(super) pin: Option<PathBuf>,
}

impl Uri {
    /// Reads a URI.
    ///
    /// # Errors
    /// `invalid_config`: what is wrong with it. A PIN that stands in it isn't repeated.
    pub(super) fn parse(text: &str) -> Result<Self, Problem> {
        let rest = text.strip_prefix("pkcs11:").ok_or_else(|| wrong("it doesn't begin with pkcs11:"))?;
        if text.len() > MAX {
            return Err(wrong(&format!("it is over {MAX} bytes")));
        }
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (mut token, mut serial, mut manufacturer, mut model) = (None, None, None, None);
        let (mut slot, mut object, mut id, mut module, mut pin) = (None, None, None, None, None);
        for (name, value) in attributes(path, ';')? {
            match name {
                "token" => once(&mut token, name, utf8(name, value)?)?,
                "serial" => once(&mut serial, name, utf8(name, value)?)?,
                "manufacturer" => once(&mut manufacturer, name, utf8(name, value)?)?,
                "model" => once(&mut model, name, utf8(name, value)?)?,
                "object" => once(&mut object, name, utf8(name, value)?)?,
                "id" => once(&mut id, name, value)?,
                "slot-id" => {
                    let number = utf8(name, value)?.parse().map_err(|_| wrong("slot-id is not a number"))?;
                    once(&mut slot, name, number)?;
                }
                "type" if value == b"private" => {}
                "type" => return Err(wrong("type must be private, or left out")),
                other => return Err(wrong(&format!("{other:?} is no attribute that this program knows"))),
            }
        }
        for (name, value) in attributes(query, '&')? {
            match name {
                "module-path" => once(&mut module, name, PathBuf::from(utf8(name, value)?))?,
                "pin-source" => once(&mut pin, name, pin_file(&utf8(name, value)?)?)?,
                "pin-value" => return Err(wrong("a PIN doesn't belong into it").hint("write it to a file: pin-source=file:/path/to/pin")),
                other => return Err(wrong(&format!("{other:?} is no query that this program knows"))),
            }
        }
        let module = module.filter(|path| path.is_absolute());
        let module = module.ok_or_else(|| wrong("module-path, the absolute path of the token's library, is missing"))?;
        if object.is_none() && id.is_none() {
            return Err(wrong("it names no key: object=LABEL or id=%01 is missing"));
        }
        Ok(Self { text: text.into(), token, serial, manufacturer, model, slot, object, id, module, pin })
    }

    /// As it was written; it holds no secret.
    pub(super) fn as_str(&self) -> &str {
        &self.text
    }
}

fn attributes(text: &str, separator: char) -> Result<Vec<(&str, Vec<u8>)>, Problem> {
    let pairs = text.split(separator).filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=').ok_or_else(|| wrong("an attribute has no value"))?;
            Ok((name, decode(value).ok_or_else(|| wrong(&format!("the value of {name:?} is not percent-encoded")))?))
        })
        .collect()
}

/// Percent-decoding (RFC 3986).
fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        if first == b'%' {
            let (digits, after) = after.split_at_checked(2)?;
            bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok().filter(|d| !d.starts_with('+'))?, 16).ok()?);
            rest = after;
        } else {
            bytes.push(first);
            rest = after;
        }
    }
    Some(bytes)
}

fn utf8(name: &str, value: Vec<u8>) -> Result<String, Problem> {
    String::from_utf8(value).map_err(|_| wrong(&format!("the value of {name:?} is not UTF-8")))
}

fn once<T>(slot: &mut Option<T>, name: &str, value: T) -> Result<(), Problem> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(wrong(&format!("{name} stands there twice"))),
    }
}

/// `file:/path`, `file:///path`, or a path; no program is run for a PIN.
fn pin_file(text: &str) -> Result<PathBuf, Problem> {
    let path = text.strip_prefix("file:").unwrap_or(text);
    let path = PathBuf::from(path.strip_prefix("//").unwrap_or(path));
    if path.is_absolute() { Ok(path) } else { Err(wrong("pin-source is not file: with an absolute path")) }
}

fn wrong(what: &str) -> Problem {
    Problem::new(Code::InvalidConfig, format!("the pkcs11: URI can't be used: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forms_of_rfc_7512_are_read() {
        let uri =
            Uri::parse("pkcs11:token=The%20Ops;serial=7;id=%01%ffA;object=o;slot-id=3;type=private?module-path=/m.so&pin-source=file:/p")
                .expect("a URI");
        assert_eq!((uri.token.as_deref(), uri.object.as_deref(), uri.slot), (Some("The Ops"), Some("o"), Some(3)));
        assert_eq!(uri.id.as_deref(), Some(&[1, 0xff, b'A'][..]));
        assert_eq!((uri.module, uri.pin), ("/m.so".into(), Some("/p".into())));
        let plain = |source: &str| Uri::parse(&format!("pkcs11:object=o?module-path=/m.so&pin-source={source}")).map(|uri| uri.pin);
        assert_eq!(plain("file:///p").expect("a file"), Some("/p".into()));
        assert_eq!(plain("/p").expect("a path"), Some("/p".into()));
    }

    #[test]
    fn what_is_wrong_is_named_and_a_pin_is_not_repeated() {
        for (text, named) in [
            ("http://x", "pkcs11:"),
            ("pkcs11:object=o", "module-path"),
            ("pkcs11:object=o?module-path=m.so", "absolute"),
            ("pkcs11:token=t?module-path=/m.so", "names no key"),
            ("pkcs11:object=o;object=p?module-path=/m.so", "twice"),
            ("pkcs11:object=%zz?module-path=/m.so", "percent"),
            ("pkcs11:object=%+1?module-path=/m.so", "percent"),
            ("pkcs11:object=%4?module-path=/m.so", "percent"),
            ("pkcs11:object=o;color=red?module-path=/m.so", "color"),
            ("pkcs11:object=o?module-path=/m.so&pin-source=|cat /p", "pin-source"),
            ("pkcs11:object=o?module-path=/m.so&pin-value=secret", "PIN"),
        ] {
            let problem = Uri::parse(text).expect_err(text);
            assert_eq!(problem.code, Code::InvalidConfig);
            assert!(problem.detail.contains(named), "{text}: {problem}");
            assert!(!problem.detail.contains("secret"));
        }
    }
}
