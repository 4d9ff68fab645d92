//! What stands in a file beside signed documents. No signature covers it, so it is held against what is signed, or named as
//! not verified; it is never shown as if it were.

use std::{collections::BTreeMap, fmt};

use protocol::{Problem, error::Code};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{DeserializeOwned, MapAccess, Visitor},
};
use serde_json::{Value, value::RawValue};

use crate::output::fields;

/// The members of a JSON object, each once, byte for byte as they stand there.
#[derive(Debug)]
pub(crate) struct Members {
    kind: &'static str,
    members: Vec<(String, Box<RawValue>)>,
    compared: Vec<String>,
}

/// What a verification says of the members beside what is signed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Remarks {
    /// Those that agree with what is signed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) compared: Vec<String>,
    /// Those that nothing signed says anything about: they may be anything.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) not_verified: Vec<String>,
}

impl Members {
    /// Reads an object; `kind` says what the file is to be.
    pub(crate) fn read(bytes: &[u8], kind: &'static str) -> Result<Self, Problem> {
        let read: Result<Object, _> = serde_json::from_slice(bytes);
        let Object(members) = read.map_err(|error| Problem::new(Code::MalformedDocument, format!("this is not {kind}: {error}")))?;
        Ok(Self { kind, members, compared: Vec::new() })
    }

    /// Whether there is such a member, other than null.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.members.iter().any(|(known, value)| known == name && value.get() != "null")
    }

    /// Takes a member out that is verified by itself; none where it is missing or null.
    pub(crate) fn take<T: DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>, Problem> {
        let Some(raw) = self.take_raw(name) else { return Ok(None) };
        self.parse(name, &raw).map(Some)
    }

    /// Takes these members out as one document that is verified by itself.
    pub(crate) fn document<T: DeserializeOwned>(&mut self, names: &[&str]) -> Result<T, Problem> {
        let (taken, rest) = std::mem::take(&mut self.members).into_iter().partition(|(name, _)| names.contains(&name.as_str()));
        self.members = rest;
        let taken: BTreeMap<String, Box<RawValue>> = Vec::into_iter(taken).collect();
        let text = serde_json::to_string(&taken).unwrap_or_default();
        serde_json::from_str(&text).map_err(|error| Problem::new(Code::MalformedDocument, format!("this is not {}: {error}", self.kind)))
    }

    /// Compares a member with what is signed.
    ///
    /// # Errors
    /// It says something else, or more.
    pub(crate) fn compare<T: Serialize + DeserializeOwned + PartialEq>(&mut self, name: &str, signed: &T) -> Result<(), Problem> {
        self.compare_with(name, |stated: &T| if stated == signed { Ok(()) } else { Err(text(signed)) })?;
        Ok(())
    }

    /// Compares a member by `check`, which says what is signed where that differs; the member as it was read, if it is there.
    pub(crate) fn compare_with<T: Serialize + DeserializeOwned>(
        &mut self,
        name: &str,
        check: impl FnOnce(&T) -> Result<(), String>,
    ) -> Result<Option<T>, Problem> {
        let Some(raw) = self.take_raw(name) else { return Ok(None) };
        let stated: T = self.parse(name, &raw)?;
        check(&stated).map_err(|signed| differs(name, &format!("says {}, and what is signed says {signed}", short(raw.get()))))?;
        // What a reader of the file finds in it is all that was compared.
        if let (Ok(found), Ok(known)) = (serde_json::from_str::<Value>(raw.get()), serde_json::to_value(&stated))
            && let Some(unknown) = unknown(&found, &known)
        {
            return Err(differs(name, &format!("has a member {:?}, of which nothing that is signed says anything", short(&unknown))));
        }
        self.compared.push(name.into());
        Ok(Some(stated))
    }

    /// Compares the exact bytes of a member.
    pub(crate) fn compare_bytes(&mut self, name: &str, check: impl FnOnce(&str) -> bool) -> Result<(), Problem> {
        let Some(raw) = self.take_raw(name) else { return Ok(()) };
        if !check(raw.get()) {
            return Err(differs(name, "is not what was signed"));
        }
        self.compared.push(name.into());
        Ok(())
    }

    /// What was compared, and what is left.
    pub(crate) fn remarks(self) -> Remarks {
        let left = self.members.into_iter().filter(|(_, value)| value.get() != "null").map(|(name, _)| short(&name));
        Remarks { compared: self.compared, not_verified: left.collect() }
    }

    fn take_raw(&mut self, name: &str) -> Option<Box<RawValue>> {
        let at = self.members.iter().position(|(known, _)| known == name)?;
        Some(self.members.remove(at).1).filter(|value| value.get() != "null")
    }

    fn parse<T: DeserializeOwned>(&self, name: &str, raw: &RawValue) -> Result<T, Problem> {
        serde_json::from_str(raw.get())
            .map_err(|error| Problem::new(Code::MalformedDocument, format!("this is not {}: its member {name:?}: {error}", self.kind)))
    }
}

impl Remarks {
    /// Together with those of an object that is a member of the file, or the file itself where `within` is empty.
    pub(crate) fn and(mut self, within: &str, other: Self) -> Self {
        let place = |name: String| if within.is_empty() { name } else { format!("{within}.{name}") };
        self.compared.extend(other.compared.into_iter().map(place));
        self.not_verified.extend(other.not_verified.into_iter().map(place));
        self
    }
}

/// What was found, and what stood beside it.
#[derive(Debug, Serialize)]
pub(crate) struct Remarked<T> {
    #[serde(flatten)]
    pub(crate) found: T,
    #[serde(flatten)]
    pub(crate) remarks: Remarks,
}

impl<T> Remarked<T> {
    /// For a person.
    pub(crate) fn describe(&self, found: impl FnOnce(&T) -> String) -> String {
        let Remarks { compared, not_verified } = &self.remarks;
        let left = if not_verified.is_empty() {
            String::new()
        } else {
            format!("{}: no signature covers what the file says there", not_verified.join(", "))
        };
        let text = found(&self.found);
        let beside = fields([("compared", compared.join(", ")), ("not verified", left)]);
        if beside.is_empty() { text } else { format!("{}\n{beside}", text.trim_end_matches('\n')) }
    }
}

/// JSON without the white space between its tokens, which has no meaning.
pub(crate) fn compact(json: &str) -> String {
    let (mut within, mut escaped) = (false, false);
    let keep = |char: &char| {
        let quoted = within || *char == '"';
        (within, escaped) = match char {
            _ if escaped => (true, false),
            '\\' if within => (true, true),
            '"' => (!within, false),
            _ => (within, false),
        };
        quoted || !matches!(char, ' ' | '\t' | '\n' | '\r')
    };
    json.chars().filter(keep).collect()
}

/// A member of the found value that the known one hasn't, by its name.
fn unknown(found: &Value, known: &Value) -> Option<String> {
    match (found, known) {
        (Value::Object(found), Value::Object(known)) => found.iter().find_map(|(name, value)| match known.get(name) {
            Some(known) => unknown(value, known),
            None => (!value.is_null()).then(|| name.clone()),
        }),
        (Value::Array(found), Value::Array(known)) => found.iter().zip(known).find_map(|(found, known)| unknown(found, known)),
        _ => None,
    }
}

fn differs(name: &str, how: &str) -> Problem {
    Problem::new(Code::ProofFailed, format!("the file was altered: {name:?} beside what is signed {how}"))
}

fn text<T: Serialize>(value: &T) -> String {
    short(&serde_json::to_string(value).unwrap_or_default())
}

fn short(text: &str) -> String {
    const MOST: usize = 200;
    let mut short: String = text.chars().take(MOST).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

/// See [`Members`].
struct Object(Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Each;

        impl<'de> Visitor<'de> for Each {
            type Value = Object;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let mut members: Vec<(String, Box<RawValue>)> = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, Box<RawValue>>()? {
                    // Of two, one reader takes the first and another the last.
                    if members.iter().any(|(known, _)| *known == name) {
                        return Err(serde::de::Error::custom(format_args!("member {:?} is there twice", short(&name))));
                    }
                    members.push((name, value));
                    if members.len() > MAX_MEMBERS {
                        return Err(serde::de::Error::custom("it has too many members"));
                    }
                }
                Ok(Object(members))
            }
        }

        deserializer.deserialize_map(Each)
    }
}

/// Far more than anything has that this program reads.
const MAX_MEMBERS: usize = 256;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn members(json: &str) -> Members {
        Members::read(json.as_bytes(), "a test").expect("an object")
    }

    #[test]
    fn what_stands_beside_is_compared_or_named() {
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        struct Used {
            calls: u64,
        }
        let mut file = members(r#"{"used":{"calls":1},"result": [1, 2],"note":"x","nothing":null,"price":"2"}"#);
        file.compare("used", &Used { calls: 1 }).expect("the same");
        file.compare("missing", &Used { calls: 1 }).expect("what isn't there says nothing");
        file.compare_bytes("result", |text| text == "[1, 2]").expect("byte for byte");
        let altered = file.compare("price", &"1".to_owned()).expect_err("another").detail;
        assert!(altered.contains("\"price\"") && altered.contains("says \"2\", and what is signed says \"1\""), "{altered}");
        let Remarks { compared, not_verified } = file.remarks();
        assert_eq!((compared, not_verified), (vec!["used".to_owned(), "result".into()], vec!["note".to_owned()]));

        let more = members(r#"{"used":{"calls":1,"cost":"900"}}"#).compare("used", &Used { calls: 1 });
        assert!(more.expect_err("more than is signed").detail.contains("\"cost\""));
        assert!(Members::read(br#"{"used":1,"used":2}"#, "a test").expect_err("which?").detail.contains("twice"));
        assert!(members(r#"{"used":{"calls":1,"calls":2}}"#).compare("used", &Used { calls: 2 }).is_err(), "which?");
        for other in ["[]", "1", "{", r#"{"a":1} x"#] {
            assert_eq!(Members::read(other.as_bytes(), "a test").expect_err(other).code, Code::MalformedDocument);
        }
    }

    #[test]
    fn white_space_is_dropped_between_tokens_alone() {
        let pretty = serde_json::to_string_pretty(&json!({ "a b": [1, "c \" d\\", { "e": "\t" }] })).expect("text");
        assert_eq!(compact(&pretty), r#"{"a b":[1,"c \" d\\",{"e":"\t"}]}"#);
        assert_eq!(compact(" [ 1 ,\n2\t] \r\n"), "[1,2]");
    }
}
